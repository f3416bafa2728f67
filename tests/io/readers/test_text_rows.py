"""Documents on lines, and CSV with all that its values may hold."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.io.readers import read_records


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | str, name: str = "x.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(path) -> list[tuple[int, object]]:
    return [(record.line, record.value) for record in read_records(path)]


def test_text_is_a_document_a_line(write):
    path = write("\ufeffone\r\n\n  \n two \x0c\x85\u2028 \nlast", "x.txt")
    assert rows(path) == [(1, {"text": "one"}), (4, {"text": " two \x0c\x85\u2028 "}), (5, {"text": "last"})]


def test_csv_by_hand(write):
    path = write('\ufeffa,b\r\n1,\r\n\r\n"x\ny","say ""hi"", you"\r\n\0,é\r\n')
    assert rows(path) == [
        (2, {"a": "1", "b": ""}),
        (4, {"a": "x\ny", "b": 'say "hi", you'}),
        (6, {"a": "\0", "b": "é"}),
    ]


VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)


@given(st.lists(st.tuples(VALUE, VALUE), max_size=6))
def test_csv_that_python_writes(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b"), *values])
    assert [value for _, value in rows(path)] == [{"a": a, "b": b} for a, b in values]


def test_values_longer_than_pythons_limit(write):
    ((_, value),) = rows(write(f'a\n"{"x" * 300_000}"\n'))
    assert len(value["a"]) == 300_000


def test_numbers_dates_and_nulls_stay_text(write):
    assert rows(write("a,b,c,d\n1,2.50,NULL,2020-01-01\n")) == [
        (2, {"a": "1", "b": "2.50", "c": "NULL", "d": "2020-01-01"})
    ]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"a,b\n1,2\n1\n", r"x\.csv:3 has 1 value for 2 columns \(a, b\)"),
        (b"a,b\n1,2,3\n", r"x\.csv:2 has 3 values for 2 columns"),
        (b'a,b\n1,2\n"1,2\n3,4\n', r"x\.csv:3 is not valid CSV \(unexpected end of data\)"),
        (b'a,b\n"1"2,3\n', r"x\.csv:2 is not valid CSV"),
        (b"a,b\n1,2\r3,4\n", r"x\.csv:2 is not valid CSV"),
        (b"a,b,a\n1,2,3\n", r"x\.csv:1: two columns are called 'a'"),
        (b"a,b\n1,2\n1,\xe9\n", r"x\.csv:3 is not UTF-8 text \(byte 0xe9\)"),
    ],
)
def test_broken_csv_is_named(write, raw, reason):
    with pytest.raises(DataError, match=reason) as error:
        rows(write(raw))
    assert error.value.code == "SP103"
