from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError
from seqpack.train.split import parse_split, part_of


@given(
    num_rows=st.integers(0, 5000),
    parts=st.tuples(st.floats(0.01, 100), st.floats(0, 100), st.floats(0, 100)),
)
def test_parts_cover_the_set_without_overlap(num_rows: int, parts: tuple[float, float, float]) -> None:
    split = parse_split(",".join(map(repr, parts)))
    edges = [part_of(num_rows, split, part) for part in range(3)]
    assert edges[0][1] == edges[1][0] and edges[1][1] == edges[2][0] and edges[2][1] == num_rows
    assert all(abs((b - a) - share * num_rows) <= 2 for (a, b), share in zip(edges, split, strict=True))


def test_by_hand() -> None:
    assert parse_split(None) == (1.0, 0.0, 0.0)
    assert parse_split("949,50,1") == pytest.approx((0.949, 0.05, 0.001))
    assert [part_of(10, parse_split("8,2"), part) for part in range(3)] == [(0, 8), (8, 10), (10, 10)]


@pytest.mark.parametrize("text", ["", "a,b", "0,1", "-1,2", "1,2,3,4", "nan", "inf,1"])
def test_what_is_no_split(text: str) -> None:
    with pytest.raises(ConfigError, match="--split") as raised:
        parse_split(text)
    assert raised.value.code == "SP208"
