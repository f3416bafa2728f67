"""``seqpack stats --characters``: characters of each row, as Pai-Megatron-Patch's ``sample_stats.py`` counts them.

Characters are no tokens: there are about five of them in a token of English and under two in one of Chinese, so they
say nothing about ``--seq-length``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqpack.core.errors import DataError
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.core.types import Sample, TextSample
from seqpack.options.data import InputOptions
from seqpack.pipeline.describe import describe
from seqpack.pipeline.inputs import resolve_input
from seqpack.pipeline.row_sample import RowSample

PARTS = {"prompt": "instruction", "query": "input", "response": "output"}
"""Columns that are counted together where a row has them, under their names in --map-keys."""


@dataclass(frozen=True, slots=True)
class Characters:
    """Describe rows of the characters per row; ``rejected`` rows have nothing that could be counted."""

    files: tuple[str, ...]
    describe: dict[str, float]
    counted: str
    rejected: int
    taken: int = 0
    seen: int = 0

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def characters(
    input: InputOptions,
    *,
    share: float = 1.0,
    seed: int = 0,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> Characters:
    """Count the characters of instruction, input and output of each row, or of all messages or texts where a row has
    no such columns. Rows with these columns count whether or not they could be trained on."""
    found = resolve_input(input, say=say)
    sampled = RowSample(share, seed) if share < 1 else None
    found = dataclasses.replace(found, sampled=sampled)
    columns = [str(input.columns().get(part) or name) for part, name in PARTS.items()]
    counts: list[int] = []
    rejected, by_column = 0, False
    last: object = None
    with progress("count", unit="rows") as advance:
        for _, record, size in found.rows(_sizes):
            if record is last and by_column:
                continue  # a record of several samples was counted whole
            last = record
            by_column = _has_texts(record.value, columns)
            if by_column:
                counts.append(sum(len(record.value.get(column) or "") for column in columns))
            elif isinstance(size, str):
                rejected += 1
            else:
                counts.append(size)
            advance(1)
    if not counts:
        raise DataError(
            "SP109", f"no rows that can be counted in {', '.join(map(str, found.files))}", help="check --input"
        )
    return Characters(
        tuple(map(str, found.files)),
        describe(np.array(counts, np.int64)),
        " + ".join(columns) if by_column else "all messages of a row",
        rejected,
        sampled.taken if sampled else 0,
        sampled.seen if sampled else 0,
    )


def _sizes(samples: Sequence[Sample | TextSample]) -> list[int]:
    return [
        sum(map(len, sample.texts))
        if isinstance(sample, TextSample)
        else sum(len(message.content) for message in sample.messages)
        for sample in samples
    ]


def _has_texts(row: Any, columns: list[str]) -> bool:
    """Whether the row has an instruction and an output; the input may be missing, or empty."""
    if not isinstance(row, Mapping):
        return False
    values = [row.get(column) for column in columns]
    return isinstance(values[0], str) and isinstance(values[2], str) and isinstance(values[1], str | None)
