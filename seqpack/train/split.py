"""``--split 98,2,0``: which rows of a set are trained on, which are evaluated on, and which are left alone."""

from __future__ import annotations

import math

from seqpack.core.errors import ConfigError

Split = tuple[float, float, float]


def parse_split(text: str | None) -> Split:
    """Shares of training, validation and test, which add up to 1: "949,50,1", "0.9,0.1"; None is all training."""
    if text is None:
        return (1.0, 0.0, 0.0)
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(math.isfinite(part) and part >= 0 for part in parts) or not parts[0]:
        raise ConfigError(
            "SP208", f"--split {text} is not a split", help="give shares of training, validation and test: 98,2,0"
        )
    train, valid, test = (*parts, 0.0, 0.0)[:3]
    total = train + valid + test
    return (train / total, valid / total, test / total)


def part_of(num_rows: int, split: Split, part: int) -> tuple[int, int]:
    """First row of a part and the one after its last; parts follow each other in the file, as with Megatron."""
    edges = [0]
    for share in split:
        edges.append(edges[-1] + round(share * num_rows))
    excess = edges[-1] - num_rows
    edges = [0, *(edge - excess for edge in edges[1:])]
    return edges[part], edges[part + 1]
