"""Half a surrogate pair becomes U+FFFD, and nothing else changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seqpack.io.readers.record import mended

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


def halves(text: str) -> int:
    return sum("\ud800" <= character <= "\udfff" for character in text)


@given(ANY_TEXT)
def test_text(text):
    found, count = mended(text)
    assert count == halves(text) == found.count("\ufffd") - text.count("\ufffd")
    assert len(found) == len(text)
    found.encode()
    if not count:
        assert found == text


@given(JSON)
def test_what_is_unicode_stays(value):
    found, count = mended(value)
    repr(found).encode()
    assert (found == value) == (count == 0)


def test_keys_and_nested_values():
    assert mended({"a\ud800": ["\udfff\U0001f600", {"b": 1}]}) == ({"a\ufffd": ["\ufffd\U0001f600", {"b": 1}]}, 2)
