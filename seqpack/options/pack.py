"""What ``seqpack pack`` is asked to do with rows or samples that are too long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqpack.options.check import refuse_idle
from seqpack.options.data import LengthOptions, RepackOptions
from seqpack.options.either import FilesOrSetOptions
from seqpack.options.field import option


@dataclass(frozen=True, kw_only=True, slots=True)
class PackInputOptions(FilesOrSetOptions):
    """Input"""

    input: list[Path] = option(
        [],
        help="Files, folders or 'patterns' of raw data, or org/name on the Hugging Face hub, as preprocess takes them; "
        "or the PREFIX of a set that preprocess made; nothing with --lengths.",
        positional=True,
        flags=("--input",),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackLengthOptions:
    """Length"""

    seq_length: int = option(help="Tokens in each pack.", min=1)
    on_overlong: Literal["drop", "split", "error"] = option(
        "error", "What is longer than --seq-length: leave out, go on in another pack (sets only), or stop."
    )
    max_drop: float = option(0.05, "Stop with exit code 4 if a larger share of samples is left out.", min=0, max=1)
    append_eod: bool = option(False, "Raw files: leave room for the end token that preprocess --append-eod adds.")

    def for_rows(self) -> LengthOptions:
        """As they count for raw rows."""
        return LengthOptions(
            seq_length=self.seq_length,
            on_overlong=self.on_overlong,
            max_drop=self.max_drop,
            append_eod=self.append_eod,
        )

    def for_set(self, source: Path | None) -> RepackOptions:
        """As they count for a set; ConfigError SP028 for what means nothing there."""
        refuse_idle(self, ("append_eod",), because="a set has its tokens already", help="leave it out")
        return RepackOptions(
            source=source, seq_length=self.seq_length, on_overlong=self.on_overlong, max_drop=self.max_drop
        )
