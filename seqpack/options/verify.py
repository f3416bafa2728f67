"""The options of ``seqpack verify``: those of ``train``, and how much is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpack.options.field import option
from seqpack.options.train import RunOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyOptions:
    """What is checked"""

    rows: int = option(
        4, "Rows that go through the model, among them the ones with most samples and most padding.", min=1
    )
    samples: int = option(
        64, "Samples of these rows that are changed, one at a time, to see whether others notice.", min=1
    )
    sources: int = option(
        1000, "Samples whose trained tokens are compared with the rows of the raw data; 0 leaves that out.", min=0
    )
    full_size: bool = option(
        False, "Take the model itself with its weights, not a small random copy of its family.", negation=False
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRunOptions(RunOptions):
    """Run"""

    save: Path = option(
        Path("none"), "Of train: nothing is written here.", flags=("--save", "--out"), short="-o", hidden=True
    )
