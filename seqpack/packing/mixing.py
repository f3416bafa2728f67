"""How well long and short samples are mixed, as the design effect of survey statistics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpack.packing.patterns import Patterns


def design_effect(patterns: Patterns) -> float:
    """``effect_of_sums`` of the packs that patterns stand for."""
    log = np.log(np.maximum(patterns.length, 1))
    docs = patterns.sums(patterns.times)
    sums = patterns.sums(log * patterns.times)
    squares = patterns.sums(log * log * patterns.times)
    return effect_of_sums(patterns.packs, docs, sums, float((patterns.packs * squares).sum()))


def effect_of_sums(
    packs: NDArray[np.integer], docs: NDArray[np.floating], sums: NDArray[np.floating], squares: float
) -> float:
    """1 + (samples per pack - 1) x the intra-class correlation of the logarithm of lengths.

    By it the variance of a batch statistic that depends on length exceeds that of samples drawn one by one: 1 is a
    random draw. ``packs`` counts equal packs, ``docs`` and ``sums`` are samples and log lengths in each of them,
    ``squares`` the sum of all squared log lengths.
    """
    num_docs, num_packs = float((packs * docs).sum()), float(packs.sum())
    if num_docs <= num_packs or num_packs < 2:
        return 1.0
    between = float((packs * sums * sums / docs).sum())
    total = float((packs * sums).sum())
    mean_between = (between - total * total / num_docs) / (num_packs - 1)
    mean_within = (squares - between) / (num_docs - num_packs)
    size = (num_docs - float((packs * docs * docs).sum()) / num_docs) / (num_packs - 1)
    spread = mean_between + (size - 1) * mean_within
    if spread <= 0:
        return 1.0
    correlation = (mean_between - mean_within) / spread
    return 1 + (num_docs / num_packs - 1) * correlation
