"""Dealing: every pack gets a long sample, then a shorter one, and so on, as cards are dealt; short samples close packs.

A fixed number of packs is opened. In each round the longest samples that are left go to the packs with the most room,
one each (longest processing time first). Packs so come out alike: each with as many long and short samples as the
others, and with nearly the same attention cost. When ``share`` of the tokens is dealt, the shortest samples close the
packs, exactly or best-fit.

A round is a few numpy calls over groups of equal packs. Each length splits at most one group in two, so there are at
most as many groups as distinct lengths, and a round costs O(groups log groups) whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpack.packing.patterns import Ints, Patterns, unroll

Close = Callable[[dict[int, int], Ints], tuple[Patterns, Ints]]
"""Puts samples, given by their counts, into open packs, given by their rooms; see ``best_fit_into``."""
MOST_ROUNDS = 600


@dataclass(slots=True)
class _Hands:
    """Groups of equal packs, all int64 ``[groups]``: how many there are, their room, the chain of what they hold."""

    packs: Ints
    room: Ints
    chain: Ints

    def take(self, groups: NDArray[np.integer] | NDArray[np.bool_]) -> _Hands:
        return _Hands(self.packs[groups], self.room[groups], self.chain[groups])

    def and_also(self, other: _Hands) -> _Hands:
        return _Hands(
            np.concatenate([self.packs, other.packs]),
            np.concatenate([self.room, other.room]),
            np.concatenate([self.chain, other.chain]),
        )


class _Table:
    """The packs dealt to, and the chains of what they hold (one sample per link)."""

    def __init__(self, packs: int, capacity: int) -> None:
        self.hands = _Hands(*(np.array([value], np.int64) for value in (packs, capacity, -1)))
        self._before: list[Ints] = []
        self._length: list[Ints] = []
        self._links = 0

    def give(self, to: _Hands, length: Ints) -> _Hands:
        """These groups with one more sample each."""
        self._before.append(to.chain)
        self._length.append(length)
        chain = np.arange(self._links, self._links + len(length))
        self._links += len(length)
        return _Hands(to.packs, to.room - length, chain)

    def patterns(self, hands: _Hands) -> Patterns:
        none = [np.zeros(0, np.int64)]
        before, length = np.concatenate([*none, *self._before]), np.concatenate([*none, *self._length])
        return unroll(hands.packs, hands.chain, before, length, np.ones_like(length))


def deal(counts: Ints, capacity: int, packs: int, *, share: float, close: Close) -> Patterns:
    """Deal ``share`` of the tokens to so many packs, then close them; what does not fit gets packs of its own."""
    left = counts.copy()
    table = _Table(packs, capacity)
    lengths = np.arange(len(counts))
    to_place = int(share * int((counts * lengths).sum()))
    for _ in range(MOST_ROUNDS):
        dealt = _round(table, left, to_place)
        if not dealt:
            break
        to_place -= dealt
    hands = table.hands.take(np.argsort(-table.hands.room, kind="stable"))
    rooms, first = np.unique(-hands.room, return_index=True)
    totals = np.add.reduceat(hands.packs, first) if len(first) else first
    closing, began = close(dict(zip((-rooms).tolist(), totals.tolist(), strict=True)), left)
    return _join(table.patterns(hands), closing, began)


def _round(table: _Table, left: Ints, to_place: int) -> int:
    """One sample each to the packs with the most room; returns the tokens placed, 0 if that is over."""
    present = np.flatnonzero(left)
    hands = table.hands
    top = int(hands.room.max(initial=0))
    if not len(present) or to_place < present[-1] or top < present[-1]:
        return 0
    # a pack that has the longest sample already waits until the others caught up
    active = hands.room > top - int(present[-1])
    open_hands, waiting = hands.take(active), hands.take(~active)
    open_hands = open_hands.take(np.argsort(-open_hands.room, kind="stable"))
    cards = present[::-1]
    card_ends, hand_ends = np.cumsum(left[cards]), np.cumsum(open_hands.packs)
    limit = int(min(card_ends[-1], hand_ends[-1]))
    ends = np.union1d(card_ends, hand_ends)
    ends = np.append(ends[ends < limit], limit)
    hand, card = np.searchsorted(hand_ends, ends), np.searchsorted(card_ends, ends)
    number = np.diff(ends, prepend=0)
    length = cards[card]
    fits = length <= open_hands.room[hand]
    tokens = np.cumsum(number * length * fits)
    fits &= tokens <= to_place
    if not fits.any():
        return 0
    split = open_hands.take(hand)
    split.packs = number
    np.subtract.at(left, length[fits], number[fits])
    served = table.give(split.take(fits), length[fits])
    remaining = open_hands.packs - np.bincount(
        hand[fits], weights=number[fits], minlength=len(open_hands.packs)
    ).astype(np.int64)
    unserved = open_hands.take(remaining > 0)
    unserved.packs = remaining[remaining > 0]
    table.hands = waiting.and_also(unserved).and_also(served)
    return int((number * length * fits).sum())


def _join(dealt: Patterns, closing: Patterns, began: Ints) -> Patterns:
    """Packs of the deal, largest room first, each with the closing that was made for its room."""
    order = np.argsort(-began, kind="stable")
    closing = closing.pick(order, closing.packs[order])
    # rooms of a whole pack come first; those beyond the packs that were dealt to are packs of their own
    extra = closing.num_packs - dealt.num_packs
    if extra:
        empty = np.array([extra], np.int64)
        none = np.zeros(0, np.int64)
        dealt = Patterns(empty, np.zeros(1, np.int64), none, none).together(dealt)
    dealt_ends, closing_ends = np.cumsum(dealt.packs), np.cumsum(closing.packs)
    ends = np.union1d(dealt_ends, closing_ends)
    packs = np.diff(ends, prepend=0)
    mine = dealt.pick(np.searchsorted(dealt_ends, ends), packs)
    theirs = closing.pick(np.searchsorted(closing_ends, ends), packs)
    return mine.beside(theirs).used()
