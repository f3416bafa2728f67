"""Lists as flags."""

from __future__ import annotations

import pytest

from seqpack.cli.app import command_function
from seqpack.cli.bind import spread_lists


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--input a b --tokenizer t", "--input a --input b --tokenizer t"),
        ("a b --tokenizer t", "a b --tokenizer t"),
        ("--tokenizer t a b", "--tokenizer t a b"),
        ("--input a --input b c -q", "--input a --input b --input c -q"),
        ("--input", "--input"),
        ("-q x", "-q x"),
    ],
)
def test_a_flag_with_a_list_takes_all_that_follows(given, expected):
    assert spread_lists(command_function("stats"), given.split()) == expected.split()
