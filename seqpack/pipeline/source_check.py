"""Do the trained tokens of a set say what the replies in the raw data say? Decoded, and compared as text.

Neither the template nor the encoder takes part: a label that slipped by one place, or onto a question, shows.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.check_result import CheckResult
from seqpack.core.errors import RejectError, SeqpackError
from seqpack.core.types import IGNORE_INDEX, Message, Sample
from seqpack.hooks.specs import DatasetCatalogue, DatasetHandler, HandlerOptions
from seqpack.io.manifest import FileRecord
from seqpack.io.packed import PackedDataset
from seqpack.io.readers import Record, read_records
from seqpack.io.readers.record import elements
from seqpack.pipeline.inputs import open_handler
from seqpack.pipeline.show import find_tokenizer
from seqpack.text.labels import REPLIES, choose
from seqpack.text.tokenizer import Tokenizer

NAME = "source texts"
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_MARKUP = re.compile(r"<[^<>\s]{1,40}>")
_QUOTED = 60


@dataclass(frozen=True, slots=True)
class _Trained:
    """What is trained on of one sample: the text of each stretch of labels, and its last id."""

    texts: tuple[str, ...]
    last_ids: tuple[int, ...]


def check_sources(dataset: PackedDataset, *, most: int, tokenizer_dir: Path | None = None) -> CheckResult:
    """Compare ``most`` samples, from the first to the last, with their rows; skipped if there is nothing to compare.

    The raw files are read up to the last of these rows.
    """
    tokenizer, note = find_tokenizer(dataset.manifest, tokenizer_dir)
    handler, why_not = _handler(dataset)
    if tokenizer is None or handler is None:
        return CheckResult(NAME, "skipped", why_not or note)
    pieces = dataset.pieces
    whole = np.arange(len(pieces)) if pieces.start is None else np.flatnonzero(pieces.start == 0)
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, min(most, len(whole))).round().astype(int))]
    places = _by_source(dataset, chosen)
    shortened, starts = _shortened(dataset), dataset.piece_starts
    compared, whole_ones, ended, unended, fault = 0, 0, 0, "", ""
    for source, pieces_of_line in places.items():
        for record in _records(source, pieces_of_line):
            samples = _samples(handler, record, str(dataset.manifest.recipe.get("train_on", "assistant")))
            for piece in pieces_of_line[record.line]:
                trained = _trained(dataset, int(starts[piece]), int(pieces.length[piece]), tokenizer)
                key, is_cut = pieces.key(piece), pieces.key(piece) in shortened or pieces.start is not None
                compared += 1
                faults = [_fault(trained, sample, tokenizer, is_cut=is_cut) for sample in samples]
                if faults and all(faults) and not fault:
                    fault = f"{key}: {faults[0]}"
                if not is_cut and trained.last_ids:
                    is_end = trained.last_ids[-1] in {*tokenizer.added_tokens.values(), tokenizer.eos_token_id}
                    whole_ones, ended, unended = whole_ones + 1, ended + is_end, unended or ("" if is_end else key)
    if not compared:
        return CheckResult(NAME, "skipped", "the files the set was made from are not here, or have changed since")
    if ended and unended and not fault:
        fault = f"{unended}: no end token is trained on, as it is in other samples"
    seen = (
        f"the trained tokens of {compared:,} samples are the replies of their rows; {ended:,} of them end with a token"
    )
    return CheckResult.of(NAME, fault, seen)


def _handler(dataset: PackedDataset) -> tuple[DatasetHandler | None, str]:
    """What read the rows, or why it cannot be had."""
    recipe = dataset.manifest.recipe
    name = recipe.get("handler")
    if not name or recipe.get("compat", "none") != "none":
        return None, "the set does not say how its rows were read"
    try:
        _, handler = open_handler(name, HandlerOptions(columns=recipe.get("map_keys") or {}))
    except SeqpackError as error:
        return None, error.message
    if isinstance(handler, DatasetCatalogue):
        return None, f"{name} reads data sets by name, from files of several kinds"
    return handler, ""


def _by_source(dataset: PackedDataset, chosen: NDArray[np.int64]) -> dict[Path, dict[int, list[int]]]:
    """Pieces by line, for each file that is here and unchanged."""
    pieces = dataset.pieces
    places: dict[Path, dict[int, list[int]]] = {}
    for number, source in enumerate(pieces.sources):
        path = Path(source)
        if not _is_unchanged(path, dataset.manifest.inputs.get(source)):
            continue
        lines: dict[int, list[int]] = defaultdict(list)
        for piece in chosen[pieces.source[chosen] == number].tolist():
            lines[int(pieces.line[piece])].append(piece)
        places[path] = lines
    return places


def _is_unchanged(path: Path, record: FileRecord | None) -> bool:
    if not path.is_file():
        return False
    if record is None or record.modified == path.stat().st_mtime_ns:
        return True
    return path.stat().st_size == record.size and FileRecord.of(path).sha256 == record.sha256


def _records(path: Path, wanted: Mapping[int, Sequence[int]]) -> Iterator[Record]:
    last = max(wanted, default=0)
    for record in read_records(path):
        if record.line in wanted:
            yield record
        if record.line >= last:
            return


def _samples(handler: DatasetHandler, record: Record, train_on: Any) -> list[Sample]:
    """All samples of a row; those of its elements, if it is a list."""
    found: list[Sample] = []
    for row in elements(record):
        if not isinstance(row.value, dict):  # in a list, beside others
            continue
        try:
            found += [choose(sample, train_on) for sample in handler(row.value) if isinstance(sample, Sample)]
        except RejectError:
            continue
    return found


def _shortened(dataset: PackedDataset) -> set[str]:
    """Rows of which the set has less than all."""
    with dataset.paths.rejects.open(encoding="utf-8") as file:
        losses = map(json.loads, file)
        return {loss["key"].partition("[")[0] for loss in losses if loss["outcome"] in ("truncated", "split", "mended")}


def _trained(dataset: PackedDataset, start: int, length: int, tokenizer: Tokenizer) -> _Trained:
    labels = dataset.labels[start : start + length].tolist()
    runs = [list(run) for is_trained, run in groupby(labels, lambda label: label != IGNORE_INDEX) if is_trained]
    return _Trained(tuple(tokenizer.decode_batch(runs)), tuple(run[-1] for run in runs))


def _fault(trained: _Trained, sample: Sample, tokenizer: Tokenizer, *, is_cut: bool) -> str:
    """What the labels of a sample do not say, or say besides; empty if they are right."""
    replies = [message for message in sample.messages if _is_trained(message)]
    rest = _plain(" ".join(trained.texts), tokenizer)
    if is_cut:
        whole = " ".join(_plain(message.content, tokenizer) for message in replies)
        stretches = (_plain(text, tokenizer) for text in trained.texts)
        strange = next((text for text in stretches if text not in whole), "")
        return f"{_quote(strange)} is trained on, and is no part of a reply" if strange else ""
    for message in replies:
        if message.role == "function":  # each template writes a call in its own way
            return ""
        reply = _plain(message.content, tokenizer)
        if not reply:  # blanks, markup or a thought alone
            continue
        before, found, behind = rest.partition(reply)
        if not found:
            return f"the reply {_quote(message.content)} is not what is trained on: {_quote(rest)}"
        rest = f"{before} {behind}"
    if len(replies) == len(sample.messages):  # so is the markup around them
        return ""
    return f"{_quote(rest.strip())} is trained on, and is no part of a reply" if re.search(r"\w", rest) else ""


def _is_trained(message: Message) -> bool:
    return message.role in REPLIES if message.train is None else message.train


def _plain(text: str, tokenizer: Tokenizer) -> str:
    """Text as all tokenizers and templates leave it: without thoughts, control tokens, and width of blanks."""
    text = _THOUGHT.sub(" ", text)
    for token in tokenizer.added_tokens:
        if token.strip():
            text = text.replace(token, " ")
    return " ".join(unicodedata.normalize("NFC", _MARKUP.sub(" ", text)).split())


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
