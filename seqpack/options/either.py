"""Options of commands that take raw files or a set that exists: what raw files need and a set does not."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from seqpack.core.errors import ConfigError
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.options.field import option

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesOrSetOptions(InputOptions):
    """Input"""

    input: list[Path] = option(
        help="Files, folders or 'patterns' of raw data, or org/name on the Hugging Face hub, as preprocess takes them; "
        "or the PREFIX of a set that preprocess made.",
        positional=True,
        flags=("--input",),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionalTextOptions(TextOptions):
    """Template and tokenizer"""

    # a tokenizer is needed as soon as text is to be encoded; required() gives the options that promise one
    tokenizer: Path | None = option(  # type: ignore[assignment]
        None,
        "Directory with tokenizer.json; raw files need it.",
        flags=("--tokenizer", "--tokenizer-name-or-path"),
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        instead = self.load or (self.tokenizer_model and self.tokenizer_model.parent)
        if self.tokenizer is None and instead is not None:
            object.__setattr__(self, "tokenizer", instead)

    def required(self) -> TextOptions:
        """The same with a tokenizer; ConfigError SP001 without."""
        if self.tokenizer is None:
            raise ConfigError(
                "SP001", "--tokenizer is missing", help="raw files are tokenized: name the model's folder"
            )
        return TextOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TextOptions)})


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastLengthOptions(LengthOptions):
    """Length"""

    seq_length: str = option(  # type: ignore[assignment]
        AUTO,
        "Tokens in each pack, and the most a sample may have; auto is the shortest that keeps 99.9 % of the tokens.",
        metavar="N | auto",
    )

    def parsed(self) -> LengthOptions:
        """The same with a number, or None for ``auto``; ConfigError SP001 for anything else."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(LengthOptions)}
        return LengthOptions(**values | {"seq_length": self._number()})

    def _number(self) -> int | None:
        if self.seq_length == AUTO:
            return None
        if not self.seq_length.isascii() or not self.seq_length.isdecimal() or int(self.seq_length) < 2:
            raise ConfigError(
                "SP001", f"--seq-length {self.seq_length} is not a length", help="give a number from 2 on, or auto"
            )
        return int(self.seq_length)
