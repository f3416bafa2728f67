"""Flags of the systems we replace: those that choose their behaviour, and those that change nothing here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import flag_names, option


@dataclass(frozen=True, kw_only=True, slots=True)
class CompatOptions:
    """Compatibility"""

    compat: Literal["none", "mindspeed"] = option(
        "none", "Write the bytes MindSpeed-LLM writes, with what it cuts and loses; the ledger counts it."
    )
    n_subs: int | None = option(None, "Under --compat mindspeed: pack this many subsets of the rows apart.", min=1)

    pad_to_multiple_of: int | None = option(
        None,
        "Under --compat mindspeed: fill documents of pretraining text up, with an id beyond the vocabulary.",
        min=1,
    )

    def __post_init__(self) -> None:
        if self.compat == "mindspeed":
            return
        help = "leave it out, or add --compat mindspeed to get the same files as MindSpeed-LLM"
        if self.n_subs is not None:
            raise ConfigError(
                "SP026",
                "--n-subs is only for --compat mindspeed: packing apart costs packs, and does not make seqpack faster",
                help=help,
            )
        if self.pad_to_multiple_of is not None:
            raise ConfigError(
                "SP026",
                "--pad-to-multiple-of is only for --compat mindspeed: its filler tokens are no text to train on",
                help=help,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class IgnoredOptions:
    """Accepted, without effect"""

    log_interval: int | None = option(None, "Progress is shown by time.", hidden=True)
    tokenizer_type: str | None = option(None, "The files of --tokenizer say what it is.", hidden=True)
    tokenizer_model: str | None = option(None, "The files of --tokenizer are enough.", hidden=True)
    tokenizer_not_use_fast: bool = option(
        False, "Only tokenizer.json is read, which is the fast kind.", hidden=True, negation=False
    )
    overwrite_cache: bool = option(False, "There is no cache to overwrite.", hidden=True, negation=False)
    cache_dir: str | None = option(None, "Nothing is cached.", hidden=True)
    dataset_impl: str | None = option(None, "Files are always memory-mapped IndexedDatasets.", hidden=True)

    def notes(self) -> list[str]:
        """One sentence for each of these flags that was given."""
        return [
            f"{flag_names(field)[0]} has no effect: {field.metadata['help'][0].lower()}{field.metadata['help'][1:]}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) not in (None, False)
        ]
