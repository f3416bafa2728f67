"""``seqpack pack`` of raw files: rows that share a pack on one line, as Pai-Megatron-Patch's packed JSON has them.

Rows are measured with the tokenizer, and written as they were read: nothing of the template is in the result. It is
meant for ``preprocess --pregrouped`` with the same template and tokenizer.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.ledger import Ledger
from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.core.types import running_sum
from seqpack.hooks.host import plugin_host
from seqpack.io.indexed import sync
from seqpack.io.publish import partial_folder, publish
from seqpack.io.readers import Record
from seqpack.io.shards import Shard, read_shard, whole_files
from seqpack.options.data import InputOptions, LengthOptions, StrategyOptions, TextOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.distribute import Advance
from seqpack.pipeline.inputs import ResolvedInput, resolve_input
from seqpack.pipeline.layouts import Layout, of_plan
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.pregrouped import group_offsets
from seqpack.pipeline.samples import SampleSource, check_loss
from seqpack.text.engines import Choice

_NONE = np.zeros(0, np.int64)
TOO_LONG = "longer than --seq-length"


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows in groups, just published at ``path``; ``layout`` is that of the packs they will make."""

    path: Path
    rejects: Path
    num_rows: int
    layout: Layout
    strategy: str
    ledger: Ledger
    engine: Choice
    sources: tuple[Path, ...]


def group_rows(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    *,
    workers: int | None = None,
    resolved: str = "",
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> Grouped:
    """Write the rows of the data in groups of at most ``--seq-length`` tokens, a JSON list on each line.

    Every row that can be trained on is in exactly one group, copies included. Rows that cannot, and under
    ``--on-overlong drop`` those that are too long, are named in the rejects file. Raises as ``preprocess`` does.
    """
    assert length.seq_length is not None
    path = check_target(write)
    component = plugin_host().strategy(strategy.strategy)
    found = resolve_input(input, say=say)
    _check_kind(found)
    source = SampleSource.open(found, text)
    engine = source.choose_engine(text.tokenizer_engine)
    rows, losses = _measure(source, length, workers, progress)
    rows = _fit(rows, source, length, losses)
    check_loss(source.ledger, source.files, length)
    plan = make_plan(component, rows.length, seq_length=length.seq_length, **strategy.planning)
    if len(plan.sample) != len(rows):
        raise ConfigError(
            "SP028",
            f"--strategy {component.name} cuts samples, and rows stay whole here",
            help="choose another --strategy; preprocess can pack with this one",
        )
    rejects, options = _beside(path, "_rejects.jsonl"), _beside(path, "_resolved.yaml")
    with partial_folder(path) as folder:
        aside = folder / path.name
        _write_groups(plan, rows, found, aside, progress)
        lines = "".join(loss.to_json() + "\n" for loss in losses)
        (folder / rejects.name).write_text(lines, encoding="utf-8")
        (folder / options.name).write_text(resolved, encoding="utf-8")
        publish(folder, path.parent, [rejects.name, options.name, path.name])
    layout = of_plan("groups", plan, num_samples=len(rows))
    return Grouped(path, rejects, len(rows), layout, component.name, source.ledger, engine, tuple(source.files))


def check_target(write: WriteOptions) -> Path:
    """The file to write; ConfigError if it is no ``.jsonl``, or exists without ``--overwrite``."""
    path = write.output_prefix
    if path.suffix != ".jsonl":
        raise ConfigError(
            "SP001",
            f"-o {path}: groups of raw rows are one JSON Lines file",
            help=f"write -o {path}.jsonl; a set of tokens is made by seqpack preprocess --pack",
        )
    existing = next((each for each in (path, _beside(path, "_rejects.jsonl")) if each.exists()), None)
    if existing and not write.overwrite:
        raise ConfigError("SP004", f"{existing} exists", help="choose another -o, or replace it with --overwrite")
    return path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.stem + suffix)


def _check_kind(found: ResolvedInput) -> None:
    """ConfigError for what cannot be put into groups of rows."""
    if found.text_keys:
        raise ConfigError(
            "SP132",
            f"handler {found.handler!r} gives pretraining text; groups are made of conversations",
            help="choose the --handler of a conversation, if the data are that",
        )
    if found.pregrouped:
        raise ConfigError(
            "SP028",
            "--pregrouped would do nothing: the rows are in groups already",
            help="seqpack preprocess --pregrouped reads them; to group them anew, group the rows they were made of",
        )
    if len(set(map(id, found.handlers))) > 1:
        raise ConfigError(
            "SP028",
            "the data sets are read in several ways, and lines of one file cannot be",
            help="group each data set on its own",
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows with something to train on: number of the file, line, tokens of all their samples; int64 ``[rows]``."""

    file: NDArray[np.int64]
    line: NDArray[np.int64]
    length: NDArray[np.int64]
    samples: NDArray[np.int64]
    trained: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)

    def take(self, which: NDArray[np.bool_]) -> _Rows:
        return _Rows(self.file[which], self.line[which], self.length[which], self.samples[which], self.trained[which])


@dataclass(slots=True)
class _Part:
    columns: list[NDArray[np.int64]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)


def _measure(
    source: SampleSource, length: LengthOptions, workers: int | None, progress: Progress
) -> tuple[_Rows, list[Loss]]:
    """Tokens of all rows, whole whatever their length; and the rows without any."""
    whole = LengthOptions(append_eod=length.append_eod)

    def make(mine: SampleSource, shard: Shard, advance: Advance) -> _Part:
        part = _Part()
        for batch in mine.tokenize(whole, lost=part.losses.append, shards=[shard]):
            part.columns.append(np.stack([batch.file, batch.line, batch.tokens.lengths, batch.num_trained]))
            advance(len(batch.tokens))
        return part

    parts = source.in_parts(make, workers=workers, progress=progress)
    columns = [columns for part in parts for columns in part.columns]
    file, line, tokens, trained = np.concatenate([_NONE.reshape(4, 0), *columns], axis=1)
    offsets = group_offsets(file, line)  # a row may give several samples
    first = offsets[:-1]
    total, targets = (running_sum(column)[offsets] for column in (tokens, trained))
    rows = _Rows(file[first], line[first], np.diff(total), np.diff(offsets), np.diff(targets))
    return rows, [loss for part in parts for loss in part.losses]


def _fit(rows: _Rows, source: SampleSource, length: LengthOptions, losses: list[Loss]) -> _Rows:
    """The rows that fit; those that do not are counted and added to ``losses``, or are an error."""
    assert length.seq_length is not None
    fits = rows.length <= length.seq_length
    for row in np.flatnonzero(~fits).tolist():
        key, tokens = f"{source.files[rows.file[row]]}:{rows.line[row]}", int(rows.length[row])
        if length.on_overlong == "error":
            raise DataError(
                "SP108",
                f"{key}: {tokens:,} tokens do not fit --seq-length {length.seq_length:,}",
                help="raise it, or leave such rows out with --on-overlong drop; rows stay whole here",
            )
        losses.append(Loss(key, "dropped", TOO_LONG, tokens))
        for _ in range(int(rows.samples[row]) - 1):
            source.ledger.unkeep(TOO_LONG, 0, 0)
        source.ledger.unkeep(TOO_LONG, tokens, int(rows.trained[row]))
    return rows.take(fits)


def _write_groups(plan: PackPlan, rows: _Rows, found: ResolvedInput, aside: Path, progress: Progress) -> None:
    """A line for each pack, its rows in the order of the plan; memory holds where each row lies, and no row."""
    texts = aside.with_suffix(".rows")
    with texts.open("wb") as file:
        ends = running_sum(np.fromiter(_write_rows(file, rows, found), np.int64))
    if len(ends) != len(rows) + 1:
        raise DataError("SP103", "the data changed while they were read", help="run again when they are whole")
    with texts.open("rb") as source, aside.open("wb") as target, progress("write", len(plan), "groups") as advance:
        view = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        for pack in range(len(plan)):
            members = plan.sample[plan.offsets[pack] : plan.offsets[pack + 1]].tolist()
            target.write(b"[" + b", ".join(view[ends[row] : ends[row + 1]] for row in members) + b"]\n")
            advance(1)
        view.close()
    sync(aside)


def _write_rows(file: BinaryIO, rows: _Rows, found: ResolvedInput) -> Iterator[int]:
    """Write the rows as JSON back to back; the size of each."""
    wanted = iter(zip(rows.file.tolist(), rows.line.tolist(), strict=True))
    following = next(wanted, None)
    for shard in whole_files(found.files):
        for record in read_shard(shard):
            if (shard.number, record.line) == following:
                yield file.write(_to_json(record))
                following = next(wanted, None)


def _to_json(record: Record) -> bytes:
    try:
        return json.dumps(record.value, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(
            "SP103", f"{record.key} cannot be written as JSON: {error}", help="remove that column, or convert the file"
        ) from error
