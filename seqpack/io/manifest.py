"""The manifest beside a data set: what it is, how it was made, and that it is whole. FORMAT.md describes the files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqpack.core.errors import DataError, FormatError
from seqpack.core.ledger import Ledger
from seqpack.core.types import SET_KINDS, MaskMode, SetKind

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class TokenizerRecord:
    """The tokenizer the ids belong to; ``fingerprint`` is the same for every file that maps text to the same ids."""

    path: str
    fingerprint: str
    vocab_size: int
    eos_token_id: int | None
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file that belongs to the set, or that it was made from.

    ``modified`` is the time an input was last changed, in ns; a file of another time may still be the same.
    """

    size: int
    sha256: str
    modified: int | None = None

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.stat().st_size, digest)

    @classmethod
    def of_input(cls, path: Path) -> FileRecord:
        """With the time of its last change."""
        return dataclasses.replace(cls.of(path), modified=path.stat().st_mtime_ns)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One file pair of a set that is not ``sft``; ``empty`` of its ``documents`` have no tokens."""

    documents: int
    empty: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The truth about a data set.

    ``seq_length``, ``strategy`` and ``mask`` are None if every row is one sample (not packed). ``recipe`` names what
    the samples were made with: handler, template, options. A set of another kind than ``sft`` has a pair of files
    for each key of ``texts``, and each of their rows is a document, or what that column has for a row of the data.
    ``packing`` holds ``align``, ``max_docs``, ``pack_window`` and ``on_overlong`` of a packed set.
    """

    packed: bool
    seq_length: int | None
    strategy: str | None
    mask: MaskMode | None
    seed: int
    num_rows: int
    num_samples: int
    ledger: Ledger
    tokenizer: TokenizerRecord
    recipe: dict[str, Any]
    inputs: dict[str, FileRecord]
    files: dict[str, FileRecord]
    seqpack_version: str
    kind: SetKind = "sft"
    texts: dict[str, TextRecord] = field(default_factory=dict)
    packing: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def align(self) -> int:
        """Samples of a row start at multiples of this."""
        return int(self.packing.get("align", 1))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """DataError if there is none, FormatError if it is of another format version or not a manifest."""
        if not path.is_file():
            raise DataError(
                "SP106",
                f"{path} is missing, so this data set is unfinished, or was not made by seqpack",
                help="give the prefix that was --output-prefix, or make the set again with seqpack preprocess",
            )
        try:
            value = json.loads(path.read_bytes())
            version = value["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError("SP105", f"{path} is not a manifest of seqpack: {error}") from error
        if version != FORMAT_VERSION:
            raise FormatError(
                "SP105",
                f"{path} has format version {version}, this seqpack reads {FORMAT_VERSION}",
                help="make the set again, or use the version of seqpack that made it",
            )
        try:
            return cls._of(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                "SP105", f"{path} is damaged ({type(error).__name__}: {error})", help="make the set again"
            ) from error

    @classmethod
    def _of(cls, value: dict[str, Any]) -> Manifest:
        if value.get("kind", "sft") not in SET_KINDS:
            raise ValueError(f"no kind {value['kind']!r}")
        mask = MaskMode(value["mask"]) if value["mask"] else None
        ledger, tokenizer = Ledger.from_dict(value["ledger"]), TokenizerRecord(**value["tokenizer"])
        inputs, files = (
            {key: FileRecord(**record) for key, record in value[name].items()} for name in ("inputs", "files")
        )
        texts = {key: TextRecord(**record) for key, record in value.get("texts", {}).items()}
        read = {
            "mask": mask,
            "ledger": ledger,
            "tokenizer": tokenizer,
            "inputs": inputs,
            "files": files,
            "texts": texts,
        }
        return cls(**value | read)
