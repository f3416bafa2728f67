"""What every pipeline that makes a data set does: check the place, write down losses, publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths
from seqpack.io.publish import publish
from seqpack.options.data import WriteOptions
from seqpack.pipeline.samples import Loss
from seqpack.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published; ``paths`` are PretrainPaths if it is of kind ``pretrain``."""

    paths: DataSetPaths
    manifest: Manifest

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger


def check_output(paths: DataSetPaths, write: WriteOptions) -> None:
    """ConfigError if there is such a set already and ``--overwrite`` is not given."""
    existing = next((path for path in (paths.manifest, *paths.files) if path.exists()), None)
    if existing and not write.overwrite:
        raise ConfigError(
            "SP004", f"{existing} exists", help="choose another --output-prefix, or replace it with --overwrite"
        )


def publish_set(aside: DataSetPaths, paths: DataSetPaths, manifest: Manifest) -> None:
    """Move a finished set to its place; its manifest comes last and vouches for the rest."""
    manifest.write(aside.manifest)
    publish(aside.prefix.parent, paths.prefix.parent, [path.name for path in (*aside.files, aside.manifest)])


def line_writer(write: Callable[[str], object]) -> Callable[[Loss], None]:
    """Writes losses as lines of ``rejects.jsonl``."""

    def write_line(loss: Loss) -> None:
        value = {"key": loss.key, "outcome": loss.outcome, "reason": loss.reason, "tokens": loss.tokens}
        write(json.dumps(value, ensure_ascii=False) + "\n")

    return write_line


def tokenizer_record(tokenizer: Tokenizer, eos_token_id: int | None) -> TokenizerRecord:
    return TokenizerRecord(
        str(tokenizer.directory), tokenizer.fingerprint(), tokenizer.vocab_size, eos_token_id, tokenizer.pad_token_id
    )
