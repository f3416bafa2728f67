"""From a row of the raw data to its places in a set, through the piece index; and from a text to the packs it is in."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.progress import Progress, no_progress
from seqpack.core.suggest import nearest
from seqpack.io.mapped import forget_pages
from seqpack.io.packed import PackedDataset
from seqpack.pipeline.show import ShownToken, beginning, common_prefix, find_tokenizer, one_line, show_pack
from seqpack.text.tokenizer import Tokenizer

TOKENS_PER_BATCH = 1 << 18
"""Tokens that are text at the same time while a set is searched: some megabytes."""
AROUND = 32
"""Characters shown on either side of a match."""


@dataclass(frozen=True, slots=True)
class Place:
    """Tokens ``first`` to ``last`` (included) of row ``row``, where they are its sample ``number``.

    ``sample`` numbers the samples of the set in the order of the raw data; ``tokens`` are listed if asked for.
    """

    row: int
    number: int
    sample: int
    first: int
    last: int
    num_targets: int
    text: str
    tokens: tuple[ShownToken, ...] = ()

    @property
    def num_tokens(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Fate:
    """What the rejects file says of a row: it was rejected, dropped, truncated or mended, and why."""

    outcome: str
    reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Traced:
    """Where the row ``key`` went. Without places it is in no pack, and ``fates`` says why."""

    key: str
    places: tuple[Place, ...]
    fates: tuple[Fate, ...]
    tokenizer_note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Match:
    """A sample that contains the text, from token ``token`` of row ``row`` on; ``before`` and ``after`` surround it."""

    row: int
    number: int
    key: str
    token: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Matches:
    """All samples and packs that contain ``text`` are counted; the first ``len(matches)`` are listed."""

    text: str
    num_rows: int
    num_samples: int
    matches: tuple[Match, ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def trace(dataset: PackedDataset, key: str, *, with_tokens: bool = False, tokenizer_dir: Path | None = None) -> Traced:
    """Places and fates of the row ``FILE:LINE``; ConfigError SP112 if the set knows no such row.

    FILE may be the end of a path, such as ``train.jsonl`` for ``data/train.jsonl``, if it names one file only.
    """
    file, line = _split(key)
    pieces = dataset.pieces
    source = _find_source(dataset, file)
    tokenizer, note = find_tokenizer(dataset.manifest, tokenizer_dir)
    found = np.flatnonzero((pieces.source == _number(pieces.sources, source)) & (pieces.line == line))
    starts = dataset.piece_starts
    places = tuple(_place(dataset, starts, piece, tokenizer, with_tokens) for piece in found.tolist())
    key = f"{source}:{line}"
    fates = tuple(_fates(dataset, key))
    if not places and not fates:
        raise ConfigError(
            "SP112",
            f"--sample {key}: no sample of {dataset.paths.prefix} comes from that row, nor was one left out",
            help="the row is blank, or beyond the end of the file; lines and rows count from 1",
        )
    return Traced(key, places, fates, note)


def find_text(
    dataset: PackedDataset,
    text: str,
    *,
    limit: int,
    tokenizer_dir: Path | None = None,
    progress: Progress = no_progress,
) -> Matches:
    """Samples that contain ``text``, as their tokens read; DataError SP104 if the tokenizer is not there.

    Memory holds the text of ``TOKENS_PER_BATCH`` tokens at a time, and of one sample if that is longer.
    """
    tokenizer, note = find_tokenizer(dataset.manifest, tokenizer_dir)
    if tokenizer is None:
        raise DataError("SP104", f"--find needs the tokenizer of the set: {note}", help="name it with --tokenizer DIR")
    starts = dataset.piece_starts
    matches: list[Match] = []
    num_samples, num_rows, last_row = 0, 0, -1
    with progress("search", len(dataset.pieces), "samples") as advance:
        for first, last in _batches(dataset.pieces.length):
            for piece, decoded in _decode(dataset, starts, tokenizer, first, last):
                if text in decoded:
                    num_samples += 1
                    num_rows += int(dataset.pieces.row[piece]) != last_row  # pieces stand in the order of the rows
                    last_row = int(dataset.pieces.row[piece])
                    if len(matches) < limit:
                        matches.append(_match(dataset, starts, tokenizer, piece, decoded, text))
            forget_pages(dataset.tokens)
            advance(last - first)
    return Matches(text, num_rows, num_samples, tuple(matches))


def _split(key: str) -> tuple[str, int]:
    file, _, line = re.sub(r"\[\d+\]$", "", key).rpartition(":")  # rejects name elements of a row: a.jsonl:5[2]
    if not file or not line.isascii() or not line.isdecimal() or int(line) < 1:
        raise ConfigError(
            "SP112", f"--sample {key} is not FILE:LINE", help="like --sample train.jsonl:17; lines count from 1"
        )
    return file, int(line)


def _find_source(dataset: PackedDataset, file: str) -> str:
    """The file of the set that ``file`` means; one none of whose rows are in the set may be among its inputs."""
    known = list(dict.fromkeys([*dataset.pieces.sources, *dataset.manifest.inputs]))
    if file in known:
        return file
    parts = PurePath(file).parts
    fitting = [source for source in known if PurePath(source).parts[-len(parts) :] == parts]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            "SP112", f"--sample: {file} may be any of {', '.join(fitting)}", help="write more of the path"
        )
    guess = nearest(PurePath(file).name, [PurePath(source).name for source in known])
    shown = ", ".join(known[:5]) + (f" and {len(known) - 5:,} more" if len(known) > 5 else "")
    raise ConfigError(
        "SP112",
        f"--sample: {dataset.paths.prefix} was not made from a file {file}",
        help=f"{f'did you mean {guess!r}? ' if guess else ''}its files: {shown}",
    )


def _number(sources: tuple[str, ...], source: str) -> int:
    return sources.index(source) if source in sources else -1


def _place(
    dataset: PackedDataset, starts: NDArray[np.int64], piece: int, tokenizer: Tokenizer | None, with_tokens: bool
) -> Place:
    pieces = dataset.pieces
    row = int(pieces.row[piece])
    first_piece = int(dataset.offsets[row])
    first = int(starts[piece] - starts[first_piece])
    end = first + int(pieces.length[piece])
    sequence = dataset[row]
    tokens: tuple[ShownToken, ...] = ()
    if with_tokens:
        shown = show_pack(dataset, row, with_tokens=True, tokenizer_dir=tokenizer.directory if tokenizer else None)
        tokens = shown.tokens[first:end]
    return Place(
        row,
        piece - first_piece,
        int(pieces.sample[piece]),
        first,
        end - 1,
        int(pieces.num_targets[piece]),
        beginning(tokenizer, sequence.input_ids[first + common_prefix(sequence) : end]),
        tokens,
    )


def _fates(dataset: PackedDataset, key: str) -> Iterator[Fate]:
    """Lines of the rejects file about a row; an element of a list on that line, ``key[3]``, belongs to it."""
    with dataset.paths.rejects.open(encoding="utf-8") as file:
        for line in file:
            value = json.loads(line)
            if value["key"] == key or str(value["key"]).startswith(f"{key}["):
                yield Fate(value["outcome"], value["reason"], value["tokens"])


def _batches(lengths: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Ranges of pieces of about ``TOKENS_PER_BATCH`` tokens, each at least one piece."""
    ends = np.cumsum(lengths, dtype=np.int64)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + TOKENS_PER_BATCH, side="right")))
        yield first, last
        first = last


def _decode(
    dataset: PackedDataset, starts: NDArray[np.int64], tokenizer: Tokenizer, first: int, last: int
) -> Iterator[tuple[int, str]]:
    ids = [_ids(dataset, starts, piece) for piece in range(first, last)]
    return zip(range(first, last), tokenizer.decode_batch(ids), strict=True)


def _ids(dataset: PackedDataset, starts: NDArray[np.int64], piece: int) -> list[int]:
    start, length = int(starts[piece]), int(dataset.pieces.length[piece])
    ids: list[int] = dataset.tokens[start : start + length].tolist()
    return ids


def _match(
    dataset: PackedDataset, starts: NDArray[np.int64], tokenizer: Tokenizer, piece: int, decoded: str, text: str
) -> Match:
    row = int(dataset.pieces.row[piece])
    first_piece = int(dataset.offsets[row])
    place = decoded.index(text)
    before, after = decoded[:place], decoded[place + len(text) :]
    return Match(
        row,
        piece - first_piece,
        dataset.pieces.key(piece),
        int(starts[piece] - starts[first_piece]) + _token_at(tokenizer, _ids(dataset, starts, piece), place),
        one_line(before)[-AROUND:],
        one_line(after)[:AROUND],
    )


def _token_at(tokenizer: Tokenizer, ids: list[int], place: int) -> int:
    """The token that character ``place`` of the text belongs to: the last one before which there is no more of it."""
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(ids[:middle])) <= place:
            low = middle
        else:
            high = middle - 1
    return low
