"""The options of ``seqpack doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpack.options.field import option


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorOptions:
    """What is looked at"""

    tokenizer: Path | None = option(
        None, "Directory of a tokenizer, to see whether the fast engines give its ids.", metavar="DIR"
    )
    disk: Path = option(Path(), "Directory whose disk will take data sets and checkpoints.", metavar="DIR")
    numbers: bool = option(
        True, "Run the cases of attention, forward and backward, on every device and compare them with float64."
    )
