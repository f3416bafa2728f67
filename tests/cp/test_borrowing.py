"""Which rows ranks lend each other, against the definition: those that some query of the borrower sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqpack.attention.reference import dense_mask
from seqpack.cp.gather import borrowed, far_runs, needed
from seqpack.cp.placements import contiguous, document_aware, per_document, zigzag
from seqpack.cp.plan import Placement, bounds
from seqpack.cp.rotation import lent, partner, visits

ROWS = st.lists(st.integers(1, 25), min_size=1, max_size=12)
PLACES = st.sampled_from([contiguous, zigzag, per_document, document_aware])


def seen(placement: Placement, rank: int, window: int | None) -> NDArray[np.bool_]:
    """Rows that the queries of a rank see."""
    mask = dense_mask(placement.cu_seqlens, placement.cu_seqlens, window).numpy()
    found: NDArray[np.bool_] = mask[placement.rows[rank]].any(0)
    return found


@given(lengths=ROWS, size=st.integers(1, 6), place=PLACES, window=st.none() | st.integers(1, 9))
def test_what_is_gathered(lengths, size, place, window):
    placement = place(bounds(np.array(lengths)), size)
    counts = borrowed(placement, window=window)
    for rank in range(size):
        wanted = seen(placement, rank, window)
        assert np.array_equal(needed(placement, rank, window), wanted)
        of_each = [int(wanted[placement.rows[other]].sum()) if other != rank else 0 for other in range(size)]
        assert counts[rank].tolist() == of_each
        assert far_runs(placement, rank, window).any() == any(of_each)
    assert borrowed(placement, everything=True).sum() == (size - 1) * sum(lengths)


@given(lengths=ROWS, size=st.integers(2, 6), place=PLACES)
def test_what_passes_by_in_a_ring(lengths, size, place):
    placement = place(bounds(np.array(lengths)), size)
    for borrower in range(size):
        wanted = seen(placement, borrower, None)
        for holder in range(size):
            if holder != borrower:
                sent = placement.rows[holder][lent(placement, holder, borrower).rows]
                assert sent.tolist() == [row for row in placement.rows[holder].tolist() if wanted[row]]


@pytest.mark.parametrize(("size", "window"), [(1, 1), (4, 4), (4, 2), (4, 1), (6, 3), (6, 2), (8, 4)])
def test_every_rank_meets_every_other_once(size, window):
    steps = visits(size, window)
    assert steps[0] == (0, 0)
    for rank in range(size):
        assert sorted(partner(rank, size, window, step, -1) for step in steps) == list(range(size))
        for step in steps:
            source = partner(rank, size, window, step, -1)
            assert partner(source, size, window, step, 1) == rank, "who receives from a rank is whom it sends to"
    inner = [partner(0, size, window, step, -1) for step in steps[:window]]
    assert sorted(inner) == list(range(window)), "neighbours come first"
