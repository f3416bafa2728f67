"""What ``seqpack convert`` accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import option

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """Weights"""

    source: Path = option(
        help="Hugging Face model directory, or Megatron checkpoint directory.",
        flags=("--load-dir",),
        positional=True,
        metavar="SOURCE",
    )
    to: Literal["mcore", "hf"] = option(help="Layout to write: mcore (Megatron-core) or hf (Hugging Face).")
    output: Path = option(help="Directory to write.", flags=("--output", "--save-dir"), short="-o")
    hf_dir: Path | None = option(
        None, "With --to hf: where config.json and the tokenizer come from, if not from SOURCE/hf."
    )
    release: bool = option(False, "With --to mcore: write release/ and the tracker 'release' instead of iteration 1.")
    max_shard_size: str = option("4GB", "With --to hf: largest safetensors file, such as 500MB or 4GB.")
    overwrite: bool = option(False, "Replace an earlier output in that directory.")
    verify: bool = option(True, "Read the written files back and compare every byte with the source.")

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size)


def parse_size(text: str) -> int:
    """Bytes of ``"4GB"``, ``"500 MiB"`` or ``"1000"``; ConfigError unless it is a positive number with a known unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(
            "SP410", f"--max-shard-size {text!r} is not a size", help="write a number and a unit: 500MB, 4GB, 2GiB"
        )
    return size
