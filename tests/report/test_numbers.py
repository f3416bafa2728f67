from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.report.numbers import bar, count, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0 %"), (0.5, "50.0 %"), (1, "100.0 %"), (0.9973, "99.7 %"), (0.1234, "12.3 %"),
        (0.99999, "99.9 %"), (0.9995, "99.9 %"), (0.00001, "<0.1 %"), (0.001, "0.1 %"), (1.5, "150.0 %"),
    ],
)  # fmt: skip
def test_shares(value, text):
    assert share(value) == text


@given(st.floats(0, 1))
def test_a_share_never_claims_all_or_nothing(value):
    assert (share(value) == "100.0 %") == (value == 1)
    assert (share(value) == "0.0 %") == (value == 0)


@pytest.mark.parametrize(("number", "text"), [(0, "0 packs"), (1, "1 pack"), (2, "2 packs"), (12345, "12,345 packs")])
def test_counts(number, text):
    assert count(number, "pack") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, ""), (1, "▏"), (8, "█"), (12, "█▌"), (15, "█▉"), (80, "██████████"), (0.001, "▏")]
)
def test_bars_are_drawn_in_eighths(value, text):
    assert bar(value, 80, width=10) == text


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 40))
def test_a_bar_fits_and_shows_whatever_is_there(value, more, width):
    largest = value + more
    assert len(bar(value, largest, width=width)) <= width
    assert bool(bar(value, largest, width=width)) == bool(value)
    assert bar(largest, largest, width=width) == "█" * width


def test_a_bar_of_nothing():
    assert bar(0, 0, width=10) == ""
