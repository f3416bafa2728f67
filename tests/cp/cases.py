"""Rows that context parallelism is tried on, and every algorithm with every plan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpack.cp.algorithms import PLACEMENTS, ContextSettings, Planner
from seqpack.cp.cost import RATES, AttentionShape
from seqpack.cp.plan import bounds

DOCUMENTS = {
    "mixed": [37, 5, 1, 64, 23, 2, 9, 30, 31],
    "one long": [97],
    "all short": [3] * 14 + [4, 2],
    "odd": [7, 61, 13, 1, 1, 45],
    "length 1": [1] * 23,
    "empty ranks": [2, 1],
    "1500 documents": [1 + place % 4 for place in range(1500)],
}
"""Lengths of the documents of one row."""

ALGORITHMS = [
    *(("ring", placement) for placement in PLACEMENTS),
    *(("hybrid", placement) for placement in PLACEMENTS),
    *((name, "zigzag") for name in ("ulysses", "kvallgather", "planned", "headdoc", "auto")),
]
HEADS = [(4, 4), (4, 1), (6, 3)]
"""Query heads and key heads."""
RATES_OF_TESTS = RATES["cpu"]


def row(name: str) -> NDArray[np.int32]:
    """``cu_seqlens`` of a row."""
    return bounds(np.array(DOCUMENTS[name]))


def planner(
    size: int, algorithm: str, placement: str = "zigzag", heads: tuple[int, int] = (4, 2), **settings: int
) -> Planner:
    """As training makes it, for attention of float64 and heads of 6."""
    chosen = ContextSettings(size, algorithm, placement, **settings)
    return Planner(chosen, AttentionShape(*heads, 6, 8), RATES_OF_TESTS)


def random_rows(count: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """Rows of all kinds: few documents and many, short and long, all of one length."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        longest = int(rng.choice([1, 3, 20, 300]))
        lengths = rng.integers(1, longest + 1, rng.integers(1, 40))
        if rng.random() < 0.3:
            lengths[0] = rng.integers(1, 2000)
        rows.append(bounds(rng.permutation(lengths)))
    return rows


def document_mix(kind: str, seq_length: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """A row of ``seq_length`` tokens of instructions, web pages, instructions with long documents, or one long one."""
    lengths: list[int] = []
    while (left := seq_length - sum(lengths)) > 0:
        lengths.append(min(left, _document(kind, seq_length, rng, first=not lengths)))
    return bounds(np.array(lengths))


def _document(kind: str, seq_length: int, rng: np.random.Generator, *, first: bool) -> int:
    if kind == "one long" and first:
        return 3 * seq_length // 4
    if kind == "long mix" and rng.random() < 0.01:
        return int(rng.uniform(seq_length / 4, seq_length))
    mean, spread, least, most = {
        "instructions": (4.4909, 0.6976, 6, 2458),
        "pretraining": (6.5, 1.3, 16, seq_length),
        "long mix": (5.9, 1.0, 16, seq_length // 4),
        "one long": (5.9, 0.8, 16, seq_length // 4),
    }[kind]
    return int(np.clip(rng.lognormal(mean, spread), least, most))
