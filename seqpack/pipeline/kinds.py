"""The kinds of data sets that handlers make: which flags make sense for each, and how its files are called."""

from __future__ import annotations

from pathlib import Path

from seqpack.core.errors import ConfigError
from seqpack.core.types import SetKind
from seqpack.io.packed import KINDS, ColumnPaths, DataSetPaths, PretrainPaths
from seqpack.options.check import refuse_idle
from seqpack.options.data import PackOptions, TextOptions

SAMPLE_FLAGS = (
    "prompt_type",
    "prompt_type_path",
    "enable_thinking",
    "train_on",
    "train_on_prompt",
    "mask_history",
    "allow_special_tokens",
)
LABEL_FLAGS = ("train_on", "train_on_prompt", "mask_history")


def check_kind(kind: SetKind, handler: str, text: TextOptions, pack: PackOptions) -> None:
    """ConfigError for flags that a set of this kind has no use for."""
    if kind == "sft":
        return
    if pack.packs and kind == "pretrain":
        raise ConfigError(
            "SP133",
            f"handler {handler!r} gives pretraining text, which cannot be packed yet",
            help="leave out --pack and --neat-pack; Megatron's pretraining fills its sequences by itself",
        )
    if pack.packs:
        raise ConfigError(
            "SP134",
            f"handler {handler!r} gives {KINDS[kind]}, which cannot be packed: each stays a sequence of its own",
            help="leave out --pack and --neat-pack",
        )
    gives = f"handler {handler!r} gives {KINDS[kind]}"
    if kind == "pretrain":
        refuse_idle(
            text,
            SAMPLE_FLAGS,
            because=f"{gives}, which has no template and is trained on as a whole",
            help="leave it out, or choose the --handler of a conversation",
        )
    else:
        refuse_idle(text, LABEL_FLAGS, because=f"{gives}, whose labels have one form", help="leave it out")


def set_paths(prefix: Path, kind: SetKind, keys: tuple[str, ...]) -> DataSetPaths:
    """Names of all files of a set of this kind; ``keys`` are its columns, if they depend on the handler."""
    if kind == "sft":
        return DataSetPaths(prefix)
    return PretrainPaths(prefix, keys) if kind == "pretrain" else ColumnPaths(prefix, keys)
