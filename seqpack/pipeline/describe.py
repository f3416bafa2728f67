"""Numbers that describe many lengths: describe rows, quantiles, histogram, and how far off those of a part may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Samples of ``low`` to ``high`` tokens, both included; ``share`` counts them and all shorter ones."""

    low: int
    high: int
    samples: int
    share: float


def describe(values: NDArray[np.int64]) -> dict[str, float]:
    """The eight rows that pandas prints for a column; ``std`` is that of a sample, and 0 for a single value."""
    quarters = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        "count": float(len(values)),
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "min": float(values.min()),
        "25%": float(quarters[0]),
        "50%": float(quarters[1]),
        "75%": float(quarters[2]),
        "max": float(values.max()),
    }


def quantiles(values: NDArray[np.int64]) -> dict[str, int]:
    """``{"p50": ...}``: each is a value that occurs."""
    found = np.quantile(values, QUANTILES, method="inverted_cdf")
    return {_name(quantile): int(value) for quantile, value in zip(QUANTILES, found, strict=True)}


def mean_error(values: NDArray[np.int64], *, out_of: int) -> float:
    """Standard error of the mean of a random part of ``out_of`` values; 0 if the part is all of them."""
    if len(values) < 2:
        return 0.0 if len(values) == out_of else math.inf
    rest = max(0.0, 1 - len(values) / out_of)
    return float(values.std(ddof=1)) * math.sqrt(rest / len(values))


def quantile_ranges(values: NDArray[np.int64], *, out_of: int) -> dict[str, tuple[int, int]]:
    """From one standard error below to one above each quantile.

    How many values lie below a quantile is binomial, so the range is that of the ranks one deviation to either side;
    it assumes nothing about the lengths.
    """
    ordered = np.sort(values)
    rest = max(0.0, 1 - len(values) / out_of)
    ranges = {}
    for quantile in QUANTILES:
        rank, error = quantile * len(values), math.sqrt(len(values) * quantile * (1 - quantile) * rest)
        low, high = (min(max(math.ceil(place) - 1, 0), len(values) - 1) for place in (rank - error, rank + error))
        ranges[_name(quantile)] = (int(ordered[low]), int(ordered[high]))
    return ranges


def histogram(lengths: NDArray[np.int64]) -> tuple[Bucket, ...]:
    """Buckets that grow by the square root of two, from the shortest sample to the longest."""
    powers = np.arange(0, 2 * np.log2(max(int(lengths.max()), 2)) + 2)
    edges = np.unique(np.rint(2 ** (powers / 2)).astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    shares = np.cumsum(counts) / len(lengths)
    rows = zip(edges[:-1].tolist(), (edges[1:] - 1).tolist(), counts.tolist(), shares.tolist(), strict=True)
    used = np.flatnonzero(counts)
    return tuple(Bucket(*row) for row in list(rows)[used[0] : used[-1] + 1])


def _name(quantile: float) -> str:
    return f"p{quantile * 100:g}"
