"""The rules of MindSpeed-LLM, by hand; whole files are compared in test_golden_mindspeed.py."""

from __future__ import annotations

import numpy as np
import pytest

from seqpack.pipeline.mindspeed import (
    DocumentRules,
    Turn,
    TurnRule,
    cut_turns,
    document_index,
    knapsack_plan,
    subset_sizes,
)


def turn(prompt: int, reply: int) -> Turn:
    return Turn(list(range(prompt)), [-100] * prompt, list(range(100, 100 + reply)))


def sizes(turns: list[Turn]) -> list[tuple[int, int]]:
    assert all(len(turn.prompt) == len(turn.prompt_labels) for turn in turns)
    return [(len(turn.prompt), len(turn.reply)) for turn in turns]


@pytest.mark.parametrize(
    ("turns", "seq_length", "rule", "neat_pack", "expected"),
    [
        ([(6, 4)], None, TurnRule.PROPORTIONAL, False, [(6, 4)]),
        ([(6, 4)], 10, TurnRule.PROPORTIONAL, False, [(6, 4)]),
        ([(60, 40)], 10, TurnRule.PROPORTIONAL, False, [(6, 4)]),
        ([(100, 1)], 10, TurnRule.PROPORTIONAL, False, [(9, 1)]),
        ([(4, 4), (4, 4), (4, 4)], 8, TurnRule.PROPORTIONAL, False, [(4, 4)]),
        ([(4, 4), (4, 4), (4, 4)], 10, TurnRule.PROPORTIONAL, False, [(4, 4), (1, 1)]),
        ([(6, 4)], 10, TurnRule.PROPORTIONAL, True, [(5, 4)]),
        ([(4, 6)], 10, TurnRule.PROPORTIONAL, True, [(4, 5)]),
        ([(5, 5)], 10, TurnRule.PROPORTIONAL, True, [(5, 4)]),
        ([(60, 40)], 11, TurnRule.SHORT_SIDE_FIRST, False, [(6, 4)]),
        ([(100, 1)], 11, TurnRule.SHORT_SIDE_FIRST, False, [(9, 1)]),
        ([(2, 100)], 11, TurnRule.SHORT_SIDE_FIRST, False, [(2, 8)]),
    ],
)
def test_cuts(turns, seq_length, rule, neat_pack, expected):
    made = [turn(*size) for size in turns]
    kept = cut_turns(made, seq_length, rule=rule, neat_pack=neat_pack)
    assert sizes(kept) == expected
    for before, after in zip(made, kept, strict=False):
        assert before.prompt[: len(after.prompt)] == after.prompt
        assert before.reply[: len(after.reply)] == after.reply


def test_packs_take_the_longest_that_fits_and_of_equals_the_last():
    lengths = np.array([3, 5, 3, 2, 3])
    plan = knapsack_plan(lengths, seq_length=7, subsets=[5])
    packs = [plan.sample[start:end].tolist() for start, end in zip(plan.offsets, plan.offsets[1:], strict=False)]
    assert packs == [[1], [4, 2], [0, 3]]
    assert plan.fill().tolist() == [5, 6, 5]


def test_subsets_are_packed_apart():
    plan = knapsack_plan(np.array([3, 3, 3, 3]), seq_length=13, subsets=[2, 2])
    assert [plan.sample[start:end].tolist() for start, end in zip(plan.offsets, plan.offsets[1:], strict=False)] == [
        [1, 0],
        [3, 2],
    ]


def test_no_sample_no_pack():
    assert len(knapsack_plan(np.zeros(0, np.int64), seq_length=8, subsets=[])) == 0


@pytest.mark.parametrize(
    ("rows", "n_subs", "expected"), [(60, 4, [15] * 4), (10, 4, [2] * 5), (11, 4, [2] * 5 + [1]), (3, 1, [3])]
)
def test_subset_sizes(rows, n_subs, expected):
    assert subset_sizes(rows, n_subs) == expected
    assert sum(expected) == rows


def test_200_rows_in_64_subsets_are_67():
    assert len(subset_sizes(200, 64)) == 67


def test_a_dropped_row_ends_an_empty_document():
    assert document_index(np.array([False, True, True, False])).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("length", "multiple", "end", "expected"),
    [
        (5, 1, None, []),
        (5, 1, 7, [7]),
        (5, 4, None, [99] * 3),
        (5, 4, 7, [99, 99, 7]),
        (8, 4, None, [99] * 4),
        (7, 4, 7, [7]),
    ],
)
def test_documents_are_filled_up_before_their_end(length, multiple, end, expected):
    ids, offsets = DocumentRules(None, end, 99, multiple).finish(
        np.full(2 * length, 7), np.array([0, length, 2 * length])
    )
    one = [7] * length + expected
    assert ids.tolist() == one * 2 and offsets.tolist() == [0, len(one), 2 * len(one)]


def test_an_end_token_is_doubled():
    assert DocumentRules(None, 7, 99).finish(np.array([1, 7]), np.array([0, 2]))[0].tolist() == [1, 7, 7]


def test_documents_are_marked_by_their_place_among_those_with_text():
    rules = DocumentRules(3, None, 99)
    lengths = np.array([[1, 0], [3, 1], [2, 1]], np.int32)
    places = np.arange(3)
    assert rules.is_kept(lengths, places, 3).tolist() == [[True, False], [False, True], [True, False]]
    assert rules.is_kept(lengths[:0], places[:0], 0).tolist() == []


def test_rows_of_no_use_count_where_fifty_are_marked():
    rules = DocumentRules(3, None, 99)
    lengths = np.array([[3], [1]], np.int32)
    assert rules.is_kept(lengths, np.array([49, 50]), 60).tolist() == [[False], [True]]
    halves = DocumentRules(3, None, 99, n_subs=2)
    assert halves.is_kept(np.array([[1, 1], [0, 3]], np.int32), np.array([0, 1]), 2).tolist() == [
        [True, True],
        [False, False],
    ]
    assert rules.is_kept(np.array([[1, 1], [0, 3]], np.int32), np.array([0, 1]), 2).tolist() == [
        [True, True],
        [False, False],
    ]
