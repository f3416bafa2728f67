"""What attention of one layer costs under context parallelism, forward and backward: numbers sent, work, time.

Numbers sent and pairs computed are exact for the given boundaries, and tests hold the exchange to them. Times follow
from them and from the rates of a device, which are rough: they are for choosing between algorithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seqpack.cp.plan import HeadShare, Rows

Counts = NDArray[np.int64]
Times = NDArray[np.float64]

BACKWARD = 2.5
"""Work of the backward pass over that of the forward pass of attention."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Attention of one layer: heads of a rank (of its tensor-parallel part), numbers in each, bytes of a number."""

    query_heads: int
    key_heads: int
    head_size: int
    element_bytes: int = 2

    @property
    def key_row(self) -> int:
        """Numbers of one row of keys and values."""
        return 2 * self.key_heads * self.head_size


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one device: attention FLOP/s, bytes/s to one peer, peers it reaches at that speed at once, and fixed costs.

    ``tile``: kernels compute whole squares of this many queries and keys.
    """

    attention: float
    link: float
    peers: int
    message_seconds: float
    call_seconds: float
    tile: int

    def seconds(self, pairs: Times, shape: AttentionShape, heads: float | None = None) -> Times:
        """Forward time of these pairs (for all heads, or ``heads`` of them), and of the call around them."""
        flops = 4.0 * shape.head_size * (shape.query_heads if heads is None else heads) * pairs
        seconds: Times = flops / self.attention + self.call_seconds * (pairs > 0)
        return seconds

    def travel(self, numbers: Counts | Times, shape: AttentionShape, peers: int) -> Times:
        """Time for a rank to send or receive so many numbers, to or from ``peers`` ranks."""
        ways = max(1, min(peers, self.peers))
        seconds: Times = numbers * shape.element_bytes / (self.link * ways) + self.message_seconds * (numbers > 0)
        return seconds


RATES = {
    "npu": Rates(attention=188e12, link=25e9, peers=7, message_seconds=20e-6, call_seconds=25e-6, tile=128),
    "cuda": Rates(attention=400e12, link=200e9, peers=1, message_seconds=15e-6, call_seconds=15e-6, tile=128),
    "cpu": Rates(attention=40e9, link=1e9, peers=1, message_seconds=100e-6, call_seconds=50e-6, tile=32),
}
"""Assumed, not measured here: an Ascend 910B in a node, an H100 in a node, CPU processes that talk through gloo."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one layer and one row: numbers ``sent`` and ``pairs`` of all heads by rank, and ``seconds`` in all."""

    sent: tuple[int, ...]
    pairs: tuple[float, ...]
    seconds: float

    @property
    def balance(self) -> float:
        """Most attention work of a rank over the mean; 1 is even."""
        return max(self.pairs) * len(self.pairs) / total if (total := sum(self.pairs)) else 1.0


def causal_pairs(queries: Rows, keys: Rows, tile: int = 1) -> Times:
    """Pairs in segments of so many queries behind so many keys (bottom right), in whole tiles."""
    if tile == 1:
        exact: Times = (queries * (keys - queries) + queries * (queries + 1) // 2).astype(np.float64)
        return exact
    num_tiles = -(-queries // tile)
    segment = np.repeat(np.arange(len(queries)), num_tiles)
    number = np.arange(len(segment)) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    seen = (keys - queries)[segment] + np.minimum((number + 1) * tile, queries[segment])
    tiles = np.bincount(segment, weights=-(-seen // tile), minlength=len(queries))
    return tiles.astype(np.float64) * tile**2


def whole_pairs(queries: Rows, keys: Rows, tile: int = 1) -> Times:
    """Pairs in rectangles, in whole tiles."""
    return (-(-queries // tile) * -(-keys // tile)).astype(np.float64) * tile**2


def gathered(near: Times, far: Times, lends: Counts, gets: Counts, shape: AttentionShape, rates: Rates) -> float:
    """Seconds of ``gather``: tile pairs of near and far queries and rows lent and got, all by rank."""
    peers = len(near) - 1
    moves = rates.travel(np.maximum(lends, gets) * shape.key_row, shape, peers)
    first, second = rates.seconds(near, shape), rates.seconds(far, shape)
    forward = np.maximum(first, moves) + second
    backward = BACKWARD * second + np.maximum(BACKWARD * first, moves)
    return float((forward + backward).max())


def ringed(pairs: Sequence[Times], moves: Sequence[Times]) -> float:
    """Seconds of ``ring``: by step, what each rank computes and waits for before; the first waits for nothing."""
    forward, backward = np.zeros(len(pairs[0])), np.zeros(len(pairs[0]))
    following = [*moves[1:], np.zeros(len(pairs[0]))]
    for computed, moved in zip(pairs, following, strict=True):
        forward += np.maximum(computed, moved)
        backward += np.maximum(BACKWARD * computed, 2 * moved)
    return float((forward + backward).max())


def exchange_pairs(shape: AttentionShape, rates: Rates, size: int) -> float:
    """(query, key) pairs of one rank that take as long as exchanging one row by heads does, forward and backward."""
    vectors = 2 * (shape.query_heads + max(shape.key_heads, size)) * (size - 1) / size
    numbers = np.array([2 * vectors * shape.head_size])
    free = replace(rates, message_seconds=0.0, call_seconds=0.0)
    return float(free.travel(numbers, shape, size - 1)[0] / ((1 + BACKWARD) * free.seconds(np.ones(1), shape)[0]))


def by_heads(num_rows: Rows, shares: Sequence[HeadShare]) -> tuple[Counts, Counts]:
    """Vectors that each rank sends, forward and backward, for q, k and v of its rows and for the output."""
    vectors = np.array([share.num_sent for share in shares], np.int64)
    heads = np.array([len(share.queries) for share in shares], np.int64)
    others = int(num_rows.sum()) - num_rows
    inputs = num_rows * (vectors.sum() - vectors) + others * vectors
    outputs = others * heads + num_rows * (heads.sum() - heads)
    return inputs, outputs
