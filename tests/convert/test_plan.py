"""A plan that would lose or repeat a byte is no plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.convert.plan import Rectangle, is_tiling, make_plan
from seqpack.convert.tensors import Key, Piece, Tensor


def tensor(name: str, rows: int, columns: int, *pieces: Piece) -> Tensor:
    return Tensor(Key("", name), (rows, columns), pieces)


SOURCE = tensor("a", 4, 6, Piece("a", 0, 0, 4, 6, 0, 0))


def test_a_copy_goes_from_place_to_place() -> None:
    target = tensor("x", 2, 3, Piece("a", 1, 3, 2, 3, 0, 0))
    rest = tensor("y", 4, 6, Piece("a", 0, 0, 4, 6, 0, 0))
    (copy,) = make_plan([SOURCE], [target, rest]).copies[target.key]
    assert copy == (SOURCE.key, 1, 3, 2, 3, 0, 0, False)


def test_what_is_transposed_on_both_sides_is_copied_as_it_is() -> None:
    turned = tensor("t", 6, 4, Piece("a", 0, 0, 4, 6, 0, 0, transposed=True))
    (copy,) = make_plan([turned], [replace(turned, key=Key("", "x"))]).copies[Key("", "x")]
    assert copy == (turned.key, 0, 0, 6, 4, 0, 0, False)
    (copy,) = make_plan([SOURCE], [turned]).copies[turned.key]
    assert copy == (SOURCE.key, 0, 0, 4, 6, 0, 0, True)


@pytest.mark.parametrize(
    "target",
    [
        tensor("x", 4, 6, Piece("a", 0, 0, 3, 6, 0, 0)),
        tensor("x", 4, 6, Piece("a", 0, 0, 4, 6, 0, 0), Piece("a", 0, 0, 1, 6, 3, 0)),
        tensor("x", 3, 6, Piece("a", 0, 0, 4, 6, 0, 0)),
        tensor("x", 3, 6, Piece("a", 0, 0, 3, 6, 0, 0)),
        tensor("x", 4, 3, Piece("a", 0, 0, 4, 3, 0, 0)),
        tensor("x", 4, 6, Piece("b", 0, 0, 4, 6, 0, 0)),
    ],
    ids=["a gap", "twice", "outside", "a source row lost", "a source column lost", "no source"],
)
def test_incomplete_plans_are_refused(target: Tensor) -> None:
    with pytest.raises(AssertionError, match="would not be"):
        make_plan([SOURCE], [target])


def test_what_a_source_holds_twice_is_compared_and_copied_once() -> None:
    again = tensor("b", 4, 6, Piece("a", 0, 0, 4, 6, 0, 0))
    plan = make_plan([SOURCE, again], [tensor("x", 4, 6, Piece("a", 0, 0, 4, 6, 0, 0))])
    assert [copy.source for copy in plan.copies[Key("", "x")]] == [SOURCE.key]
    assert [(held.key, known.key) for held, known in plan.repeats] == [(again.key, SOURCE.key)]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 5), st.integers(1, 5)), max_size=6),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_a_tiling_is_what_covers_each_element_once(
    rectangles: list[tuple[int, int, int, int]], rows: int, columns: int
) -> None:
    count = np.zeros((12, 12), int)
    for row, column, height, width in rectangles:
        count[row : row + height, column : column + width] += 1
    wanted = np.zeros_like(count)
    wanted[:rows, :columns] = 1
    assert is_tiling((Rectangle(*each) for each in rectangles), rows, columns) == bool((count == wanted).all())
