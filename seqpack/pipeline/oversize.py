"""Rows so large that encoding them alone would take gigabytes: a tokenizer needs some 150 bytes for each character."""

from __future__ import annotations

from seqpack.core.errors import DataError, RejectError
from seqpack.core.types import Sample
from seqpack.options.data import LengthOptions

SAMPLE_CHARACTERS = 2 << 20
"""A sample of so many characters has half a million tokens; encoding it takes 300 MB."""

CHARACTERS_PER_TOKEN = 16
"""No fewer characters than so many for each token of ``--seq-length`` are too many."""

DOCUMENT_CHARACTERS = 8 << 20
"""Pretraining text may be a whole book, and is not cut; encoding so much takes more than a gigabyte."""


def check_size(num_characters: int, length: LengthOptions, key: str) -> str:
    """The reason to leave a sample out, or ""; DataError SP108 for one, under ``--on-overlong error``."""
    seq_length = length.seq_length or 0
    limit = max(SAMPLE_CHARACTERS, CHARACTERS_PER_TOKEN * seq_length)
    if num_characters <= limit:
        return ""
    reason = f"more than {limit:,} characters"
    if seq_length and length.on_overlong == "error":
        raise too_long(f"{key}: {reason}", seq_length)
    return reason


def is_small(sample: Sample) -> bool:
    """Whether a sample may be looked at on the way, without a length to go by."""
    return not check_size(sum(len(message.content) for message in sample.messages), LengthOptions(), "")


def too_long(what: str, seq_length: int) -> DataError:
    """The error for a sample of ``what`` tokens or characters, which begins with its place."""
    help = "raise it, or choose --on-overlong truncate | split | drop"
    return DataError("SP108", f"{what} do not fit --seq-length {seq_length:,}", help=help)


def check_document(text: str) -> None:
    """RejectError for text that is too large to be encoded in one piece."""
    if len(text) > DOCUMENT_CHARACTERS:
        raise RejectError(f"a document of more than {DOCUMENT_CHARACTERS:,} characters: split it")
