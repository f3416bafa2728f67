"""Samples and documents that nobody can encode in the memory of a usual machine."""

from __future__ import annotations

import pytest

from seqpack.core.errors import DataError, RejectError
from seqpack.core.types import Span
from seqpack.options.data import LengthOptions
from seqpack.pipeline.oversize import DOCUMENT_CHARACTERS, SAMPLE_CHARACTERS, check_document, check_sample, is_small

GIANT = [Span("a" * SAMPLE_CHARACTERS, train=False), Span("a", train=True)]


def test_a_sample_is_too_large_unless_the_length_is_as_large():
    reason = f"more than {SAMPLE_CHARACTERS:,} characters"
    assert check_sample(GIANT, LengthOptions(), "") == check_sample(GIANT, LengthOptions(seq_length=4096), "") == reason
    assert not is_small(GIANT) and is_small(GIANT[:1])
    assert check_sample(GIANT, LengthOptions(seq_length=SAMPLE_CHARACTERS // 8), "") == ""


def test_it_stops_the_run_where_long_samples_do():
    with pytest.raises(DataError, match=r"x:7: more than .* characters do not fit --seq-length 64") as error:
        check_sample(GIANT, LengthOptions(seq_length=64, on_overlong="error"), "x:7")
    assert error.value.code == "SP108"


def test_documents():
    check_document("a" * DOCUMENT_CHARACTERS)
    with pytest.raises(RejectError, match="split it"):
        check_document("a" * DOCUMENT_CHARACTERS + "a")
