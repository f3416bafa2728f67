"""One call of ``preprocess``: its options, who hears of it, and what of them decides the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from seqpack import __version__
from seqpack.core.errors import DataError
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.hooks.host import plugin_host
from seqpack.io.manifest import TokenizerRecord
from seqpack.options.compat import CompatOptions
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WorkOptions, WriteOptions
from seqpack.options.rebuild import rebuild
from seqpack.pipeline.settings import Settings, plain_value

NOT_IN_PARTS = ("packing", "dedup", "emit")
"""Settings that come into play when all parts are there."""


@dataclass(frozen=True, slots=True)
class Run:
    """``resolved`` is the text of ``resolved.yaml``; with ``only_merge`` no part is made."""

    input: InputOptions
    text: TextOptions
    length: LengthOptions
    pack: PackOptions
    write: WriteOptions
    work: WorkOptions = field(default_factory=WorkOptions)
    compat: CompatOptions = field(default_factory=CompatOptions)
    resolved: str = ""
    only_merge: bool = False
    progress: Progress = no_progress
    say: Say = say_nothing

    @property
    def leaves_parts(self) -> bool:
        """Whether this run does a share of the data and no more."""
        return self.work.is_share and not self.only_merge

    def recipe(self) -> dict[str, Any]:
        """What decides the data beside the handler, the template and the tokenizer."""
        packing = None
        if self.pack.packs:
            packing = plain_value(self.pack) | {"strategy": plugin_host().strategy(self.pack.strategy).name}
        return {
            "seq_length": self.length.seq_length,
            "on_overlong": self.length.on_overlong,
            "split_sft": self.length.split_sft,
            "append_eod": self.length.append_eod,
            **plain_value(self.compat),
            "packing": packing,
            "dedup": self.length.dedup,
            "emit": self.write.emit,
        }

    def part_settings(self, recipe: Settings, tokenizer: TokenizerRecord) -> Settings:
        """What decides the parts."""
        return {name: value for name, value in settings(recipe, tokenizer).items() if name not in NOT_IN_PARTS}

    def to_json(self) -> str:
        """The option groups, for ``from_json``; the work is not among them, as each run may do another share."""
        groups = {name: plain_value(getattr(self, name)) for name in _GROUPS}
        return json.dumps(groups | {"resolved": self.resolved}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, place: Path) -> Run:
        """The run that wrote it, to be merged; DataError naming ``place`` if it cannot be read."""
        try:
            value = json.loads(text)
            hints = get_type_hints(cls)
            groups = {name: rebuild(hints[name], value[name]) for name in _GROUPS}
            return cls(**groups, resolved=value["resolved"], only_merge=True)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("SP304", f"{place} cannot be read: {error}", help="run preprocess again") from error


_GROUPS = ("input", "text", "length", "pack", "write", "compat")


def settings(recipe: Settings, tokenizer: TokenizerRecord, version: str = __version__) -> Settings:
    """A recipe with tokenizer and version, less what never shows in the data."""
    known = {name: value for name, value in recipe.items() if name != "tokenizer_engine"}
    return plain_value({**known, "tokenizer": tokenizer.fingerprint, "seqpack_version": version})  # type: ignore[no-any-return]
