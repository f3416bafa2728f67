"""What the commands that only look are asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpack.core.errors import ConfigError
from seqpack.options.field import option

MATCHES_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowOptions:
    """What to show"""

    source: Path = option(help="Prefix of a set made by seqpack preprocess.", positional=True, metavar="PREFIX")
    pack: int | None = option(
        None, "Number of the pack (row), from 0; of the document in a set of pretraining text. Default: 0.", min=0
    )
    sample: str | None = option(
        None, "Where this row of the raw data went: its packs, or why it is in none.", metavar="FILE:LINE"
    )
    find: str | None = option(None, "Packs whose samples contain this text, special tokens included.", metavar="TEXT")
    limit: int = option(MATCHES_LISTED, "Matches of --find that are listed; all are counted.", min=1)
    tokens: bool = option(False, "List every token: id, text, label, position, segment.")
    mask: bool = option(True, "Draw who may attend to whom.")
    mask_png: Path | None = option(
        None, "Draw the mask of the pack into this file, a colour for each sample.", metavar="FILE.png"
    )
    tokenizer: Path | None = option(
        None, "Where the tokenizer of the set is now, if it was moved; it must be the same one.", metavar="DIR"
    )

    def __post_init__(self) -> None:
        asked = [f"--{name}" for name in ("pack", "sample", "find") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ConfigError("SP001", f"{' and '.join(asked)} ask for different things", help="give one of them")
        if self.find == "":
            raise ConfigError("SP001", "--find asks for an empty text, which every sample contains", help="name a text")
        if self.find is None and self.limit != MATCHES_LISTED:
            raise ConfigError("SP028", "--limit would do nothing: it counts matches of --find", help="add --find TEXT")
        if self.find is not None and self.tokens:
            raise ConfigError(
                "SP028", "--tokens would do nothing: --find lists matches", help="look at one of the packs with --pack"
            )
        if self.mask_png is not None and asked in (["--find"], ["--sample"]):
            raise ConfigError(
                "SP028", f"--mask-png would do nothing: {asked[0]} draws no mask", help="choose one pack with --pack"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastOptions:
    """Forecast"""

    seed: int = option(1234, "Seed of the packing strategies, and of the rows that --sample takes.", min=0)
    global_batch_size: int = option(8, "Rows in each optimizer step, to count the steps of an epoch.", min=1)
    sample: str = option("100%", "Measure a part of the rows only, and say how far off that may be.", metavar="1%")
    characters: bool = option(
        False, "Count characters, not tokens, as Pai-Megatron-Patch's sample_stats.py does.", negation=False
    )
    plot: Path | None = option(None, "Also draw lengths and layouts into a .html, .svg or .png file.", metavar="FILE")
