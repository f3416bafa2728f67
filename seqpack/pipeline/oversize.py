"""Rows so large that encoding them alone would take gigabytes: a tokenizer needs some 150 bytes for each character."""

from __future__ import annotations

from collections.abc import Sequence

from seqpack.core.errors import RejectError
from seqpack.core.types import Span

SAMPLE_CHARACTERS = 2 << 20
"""A sample of so many characters has half a million tokens; encoding it takes 300 MB."""

CHARACTERS_PER_TOKEN = 16
"""No fewer characters than so many for each token of ``--seq-length`` are too many."""

DOCUMENT_CHARACTERS = 8 << 20
"""Pretraining text may be a whole book, and is not cut; encoding so much takes more than a gigabyte."""


def check_sample(spans: Sequence[Span], seq_length: int | None) -> str:
    """The reason to leave a sample out, or "" """
    limit = max(SAMPLE_CHARACTERS, CHARACTERS_PER_TOKEN * (seq_length or 0))
    if sum(len(span.text) for span in spans) > limit:
        return f"more than {limit:,} characters"
    return ""


def is_small(spans: Sequence[Span]) -> bool:
    """Whether a sample may be looked at on the way, without a length to go by."""
    return not check_sample(spans, None)


def check_document(text: str) -> None:
    """RejectError for text that is too large to be encoded in one piece."""
    if len(text) > DOCUMENT_CHARACTERS:
        raise RejectError(f"a document of more than {DOCUMENT_CHARACTERS:,} characters: split it")
