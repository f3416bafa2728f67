"""What ``stats`` finds out, and what follows from lengths alone: layouts, steps, other lengths."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.ledger import Ledger
from seqpack.pipeline.describe import Bucket, describe, histogram, mean_error, quantile_ranges, quantiles
from seqpack.pipeline.layouts import PACKED_BY_DEFAULT, Candidate, Layout, attended_share, candidates, layouts
from seqpack.pipeline.row_sample import RowSample
from seqpack.text.labels import Finding

BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Sampled:
    """Only ``taken`` of ``seen`` rows were measured; layouts are scaled up, and these are the errors of the rest.

    ``num_tokens`` is the estimate for all rows, ``tokens_error`` and ``mean_error`` are standard errors;
    ``quantile_ranges`` reach from one standard error below to one above each quantile.
    """

    share: float
    seed: int
    taken: int
    seen: int
    num_tokens: int
    tokens_error: int
    mean_error: float
    quantile_ranges: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Copies:
    """``number`` samples have the ids of an earlier one; the first is ``key``, a copy of ``of``."""

    number: int
    key: str
    of: str


@dataclass(frozen=True, slots=True)
class Ending:
    """``samples`` samples end their training on the token ``token_id``."""

    token_id: int
    text: str
    samples: int


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps of an epoch of ``batch_size`` rows each: unpacked, and packed by the default strategy."""

    batch_size: int
    unpacked: int
    packed: int
    samples_per_packed_step: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Lengths are of whole samples; ledger and layouts are for ``seq_length``, as ``preprocess`` would make them.

    ``copies`` and ``endings`` are None where they were not looked for (in a set that exists).
    """

    files: tuple[str, ...]
    engine: str
    engine_refused: str
    handler: str
    prompt_type: str
    seq_length: int
    seq_length_was_given: bool
    ledger: Ledger
    num_tokens: int
    mean: float
    quantiles: dict[str, int]
    minimum: int
    maximum: int
    describe: dict[str, float]
    histogram: tuple[Bucket, ...]
    layouts: tuple[Layout, ...]
    fewest_rows: int
    attended_share: float
    steps: Steps
    candidates: tuple[Candidate, ...]
    longest: tuple[tuple[str, int], ...]
    num_longer: int = 0
    """Samples longer than ``seq_length``, before anything was cut."""
    copies: Copies | None = None
    endings: tuple[Ending, ...] | None = None
    sampled: Sampled | None = None
    source: str = "raw files"
    note: str = ""
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def forecast(
    original: NDArray[np.int64],
    fitted: NDArray[np.int64],
    *,
    seq_length: int,
    was_given: bool,
    seed: int,
    batch_size: int,
    cut: int,
    scale: float = 1.0,
    first: tuple[Layout, ...] = (),
    uncut: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The fields of ``Stats`` that follow from lengths: of all samples, and of those kept as they are kept.

    Layouts count ``scale`` times as many rows as there are.
    """
    found = layouts(fitted, seq_length=seq_length, seed=seed, cut=cut, first=first, uncut=uncut)
    (packed,) = [each.rows for each in found if each.name == PACKED_BY_DEFAULT]
    rows = round(packed * scale)
    samples = round(len(fitted) * scale)
    return {
        "seq_length": seq_length,
        "seq_length_was_given": was_given,
        "num_tokens": int(original.sum()),
        "mean": float(original.mean()),
        "quantiles": quantiles(original),
        "minimum": int(original.min()),
        "maximum": int(original.max()),
        "describe": describe(original),
        "histogram": histogram(original),
        "layouts": tuple(_scaled(each, scale) for each in found),
        "fewest_rows": round(-(-int(fitted.sum()) // seq_length) * scale),
        "attended_share": attended_share(fitted, packed, seq_length=seq_length),
        "steps": Steps(batch_size, -(-samples // batch_size), -(-rows // batch_size), batch_size * samples / rows),
        "candidates": candidates(original, seed=seed),
        "num_longer": int((original > seq_length).sum()),
    }


def sampling_error(original: NDArray[np.int64], sampled: RowSample, *, seen: int, taken: int) -> Sampled:
    """How far off the lengths of ``taken`` of ``seen`` rows may be."""
    out_of = round(len(original) * seen / taken)
    error = mean_error(original, out_of=out_of)
    return Sampled(
        share=sampled.share,
        seed=sampled.seed,
        taken=taken,
        seen=seen,
        num_tokens=round(float(original.mean()) * out_of),
        tokens_error=round(error * out_of) if np.isfinite(error) else out_of,
        mean_error=error if np.isfinite(error) else float(original.mean()),
        quantile_ranges=quantile_ranges(original, out_of=out_of),
    )


def _scaled(each: Layout, scale: float) -> Layout:
    if scale == 1:
        return each
    rows, elements, cut = (round(number * scale) for number in (each.rows, each.elements, each.cut_samples))
    return replace(each, rows=rows, elements=elements, cut_samples=cut)
