from __future__ import annotations

import pytest

from seqpack.core.suggest import did_you_mean, nearest

FLAGS = ["--neat-pack", "--pack", "--seq-length", "--on-overlong"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--neat-pak", "--neat-pack"),
        ("--seq_length", "--seq-length"),
        ("SEQ-LENGHT", "--seq-length"),
        ("on_overlong", "--on-overlong"),
        ("--temperature", None),
        ("", None),
    ],
)
def test_the_nearest_name(typed, meant):
    assert nearest(typed, FLAGS) == meant


def test_the_question():
    assert did_you_mean("gredy", ["greedy", "best-fit"]) == "did you mean 'greedy'?"
    assert did_you_mean("xyz", ["greedy"]) == ""
    assert did_you_mean("greedy", []) == ""
