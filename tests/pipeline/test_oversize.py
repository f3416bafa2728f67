"""Samples and documents that nobody can encode in the memory of a usual machine."""

from __future__ import annotations

import pytest

from seqpack.core.errors import DataError, RejectError
from seqpack.core.types import Message, Sample
from seqpack.options.data import LengthOptions
from seqpack.pipeline.oversize import DOCUMENT_CHARACTERS, SAMPLE_CHARACTERS, check_document, check_size, is_small

GIANT = SAMPLE_CHARACTERS + 1


def test_a_sample_is_too_large_unless_the_length_is_as_large():
    reason = f"more than {SAMPLE_CHARACTERS:,} characters"
    assert check_size(GIANT, LengthOptions(), "") == check_size(GIANT, LengthOptions(seq_length=4096), "") == reason
    question, answer = Message("user", "a" * SAMPLE_CHARACTERS), Message("assistant", "a")
    assert not is_small(Sample((question, answer))) and is_small(Sample((question,)))
    assert check_size(GIANT, LengthOptions(seq_length=SAMPLE_CHARACTERS // 8), "") == ""


def test_it_stops_the_run_where_long_samples_do():
    with pytest.raises(DataError, match=r"x:7: more than .* characters do not fit --seq-length 64") as error:
        check_size(GIANT, LengthOptions(seq_length=64, on_overlong="error"), "x:7")
    assert error.value.code == "SP108"


def test_documents():
    check_document("a" * DOCUMENT_CHARACTERS)
    with pytest.raises(RejectError, match="split it"):
        check_document("a" * DOCUMENT_CHARACTERS + "a")
