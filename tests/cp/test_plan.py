from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.cp.headdoc import HeadDocPlan, headdoc
from seqpack.cp.placements import contiguous, document_aware, folded, per_document, zigzag
from seqpack.cp.plan import Placement, bounds, head_shares, runs_of, sizes, stretches

from .cases import ALGORITHMS, planner

PLACES = (contiguous, zigzag, per_document, document_aware)
ROWS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
SIZES = st.integers(1, 9)


@given(lengths=ROWS, size=SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_every_row_has_one_holder_and_ranks_hold_equally_many(place, lengths, size):
    placement = place(bounds(np.array(lengths)), size)
    assert np.array_equal(np.sort(np.concatenate(placement.rows)), np.arange(sum(lengths)))
    held = [len(rows) for rows in placement.rows]
    assert max(held) - min(held) <= 1
    assert all((np.diff(rows) > 0).all() for rows in placement.rows)
    for rank, rows in enumerate(placement.rows):
        assert (placement.holder[rows] == rank).all()


@given(lengths=ROWS, size=SIZES)
@pytest.mark.parametrize(("algorithm", "placement"), ALGORITHMS)
def test_plans_do_too(algorithm, placement, lengths, size):
    plan = planner(size, algorithm, placement).plan(bounds(np.array(lengths)))
    held = [len(rows) for rows in plan.placement.rows]
    assert len(held) == size
    assert max(held) - min(held) <= 1
    assert np.array_equal(np.sort(np.concatenate(plan.placement.rows)), np.arange(sum(lengths)))


@given(lengths=ROWS, size=SIZES)
def test_runs_are_the_rows_cut_at_segments(lengths, size):
    placement = document_aware(bounds(np.array(lengths)), size)
    for rows, runs in zip(placement.rows, placement.runs, strict=True):
        assert np.array_equal(stretches(runs.lo, runs.lengths), rows)
        assert np.array_equal(stretches(runs.at, runs.lengths), np.arange(len(rows)))
        segment = np.searchsorted(placement.cu_seqlens, [runs.lo, runs.hi - 1], side="right") - 1
        assert (segment[0] == segment[1]).all()
        assert (placement.cu_seqlens[segment[0]] == runs.first).all()


def test_by_hand():
    cu = bounds(np.array([6, 2]))
    assert [rows.tolist() for rows in contiguous(cu, 2).rows] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [rows.tolist() for rows in zigzag(cu, 2).rows] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    assert [rows.tolist() for rows in per_document(cu, 2).rows] == [[0, 4, 5, 7], [1, 2, 3, 6]]
    assert [rows.tolist() for rows in document_aware(bounds(np.array([2, 2, 2, 2])), 2).rows] == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]
    assert [rows.tolist() for rows in document_aware(bounds(np.array([6, 1, 1])), 2).rows] == [
        [0, 4, 5, 7],
        [1, 2, 3, 6],
    ]
    assert folded(10, [2, 4]) == [[(10, 11), (15, 16)], [(11, 13), (13, 15)]]
    runs = runs_of(np.array([1, 2, 3, 7]), bounds(np.array([3, 5])))
    assert (runs.lo.tolist(), runs.hi.tolist(), runs.first.tolist(), runs.at.tolist()) == (
        [1, 3, 7],
        [3, 4, 8],
        [0, 3, 3],
        [0, 2, 3],
    )
    assert sizes(7, 3).tolist() == [2, 2, 3]
    assert stretches(np.array([4, 0]), np.array([2, 3])).tolist() == [4, 5, 0, 1, 2]


def test_short_documents_stay_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 200)
    lengths[-1] += -lengths.sum() % 4
    placement = document_aware(bounds(lengths), 4)
    cut = sum(len(runs.lo) for runs in placement.runs) - len(lengths)
    assert cut <= 4, "a document is cut only to fill the ranks up"


def test_a_window_ends_what_a_run_sees():
    runs = runs_of(np.array([2, 3, 8, 9]), bounds(np.array([5, 5])))
    assert runs.first_seen(None).tolist() == [0, 5]
    assert runs.first_seen(2).tolist() == [1, 7]
    assert runs.first_seen(100).tolist() == [0, 5]


@given(lengths=ROWS, size=SIZES)
def test_a_digest_tells_placements_apart(lengths, size):
    cu = bounds(np.array(lengths))
    assert contiguous(cu, size).digest() == contiguous(cu.copy(), size).digest()
    assert contiguous(cu, size).digest() != contiguous(bounds(np.array([*lengths, 1])), size).digest()
    assert Placement(cu, contiguous(cu, 2).rows).digest() != Placement(cu, contiguous(cu, 2).rows[::-1]).digest()


def test_a_digest_tells_plans_apart():
    cu = bounds(np.array([20, 3, 4, 5]))
    asked = [
        *((name, placement, {}) for name, placement in ALGORITHMS if name != "auto"),
        ("ring", "zigzag", {"inner_ring": 2}),
        ("hybrid", "zigzag", {"ulysses_degree": 4}),
        ("hybrid", "zigzag", {"ulysses_degree": 1}),
    ]
    digests = [planner(4, name, placement, **more).plan(cu).digest() for name, placement, more in asked]
    assert len(set(digests)) == len(asked)
    assert planner(4, "headdoc").plan(cu).digest() == planner(4, "headdoc").plan(cu.copy()).digest()
    one, other = (headdoc(bounds(np.array([3, 3, 3, 3])), 2, row_pairs=price) for price in (0.0, 1e9))
    cut = HeadDocPlan(one.placement, one.placement.rows[0][:3], np.array([3, 0]))
    assert one.digest() == other.digest() != cut.digest(), "the same rows on the same ranks, but exchanged"


@given(keys=st.integers(1, 6), group=st.integers(1, 4), size=SIZES)
def test_every_query_head_has_one_rank_and_its_key_head(keys, group, size):
    shares = head_shares(keys * group, keys, size)
    assert [head for share in shares for head in share.queries] == list(range(keys * group))
    counts = [len(share.queries) for share in shares]
    assert max(counts) - min(counts) <= 1
    for share in shares:
        assert {head // group for head in share.queries} == set(share.keys)
        of_query = share.repeats(group)
        if of_query is None and share.queries:  # the kernel shares heads evenly
            each = len(share.queries) / len(share.keys)
            of_query = [int(place / each) for place in range(len(share.queries))]
        assert [share.keys[place] for place in of_query or []] == [head // group for head in share.queries]
