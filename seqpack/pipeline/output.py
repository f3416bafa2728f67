"""What every pipeline that makes a data set does: check the place, write down losses, publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.types import SetKind
from seqpack.io.indexed import bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TextRecord, TokenizerRecord
from seqpack.io.packed import ColumnPaths, DataSetPaths, file_records
from seqpack.io.pai import pai_prefix
from seqpack.io.publish import publish
from seqpack.options.data import StrategyOptions, WriteOptions
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.run import Run
from seqpack.text.engines import Choice
from seqpack.text.labels import Finding
from seqpack.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published; ``paths`` are PretrainPaths if it is of kind ``pretrain``.

    ``engine`` is None if no engine was chosen for it; ``sources`` are the raw files in the order they were read;
    ``findings`` are about its labels, ``note`` about the template; ``duplicates`` counts samples that are in it again.
    A set ``is_unchanged`` if it was there already, and nothing was done.
    """

    paths: DataSetPaths
    manifest: Manifest
    engine: Choice | None = None
    sources: tuple[Path, ...] = ()
    note: str = ""
    findings: tuple[Finding, ...] = ()
    duplicates: int = 0
    is_unchanged: bool = False

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger


@dataclass(frozen=True, slots=True)
class PartsResult:
    """One share of the data, tokenized into parts in ``folder``: ``share`` is its number and how many there are."""

    prefix: Path
    folder: Path
    share: tuple[int, int]
    num_parts: int
    engine: Choice | None = None
    sources: tuple[Path, ...] = ()
    note: str = ""
    findings: tuple[Finding, ...] = ()


Result = DataSetResult | PartsResult


def check_output(paths: DataSetPaths, write: WriteOptions, *, packs: bool = True) -> None:
    """ConfigError if such a set is there without ``--overwrite``, or ``--emit`` cannot be done."""
    if write.emit == "pai" and not packs:
        raise ConfigError("SP008", "--emit pai lays out packs", help="add --neat-pack and --seq-length")
    pair = pai_prefix(paths.prefix)
    extra = (bin_path(pair), idx_path(pair)) if write.emit == "pai" else ()
    existing = next((path for path in (paths.manifest, *paths.files, *extra) if path.exists()), None)
    if existing and not write.overwrite:
        raise ConfigError(
            "SP004", f"{existing} exists", help="choose another --output-prefix, or replace it with --overwrite"
        )


def publish_set(aside: DataSetPaths, paths: DataSetPaths, manifest: Manifest, *, extra: Sequence[str] = ()) -> None:
    """Move a finished set to its place, ``extra`` files first; its manifest comes last and vouches for the rest."""
    manifest.write(aside.manifest)
    names = [*extra, *(path.name for path in (*aside.files, aside.manifest))]
    publish(aside.prefix.parent, paths.prefix.parent, names)


def publish_columns(
    aside: ColumnPaths,
    paths: ColumnPaths,
    run: Run,
    *,
    kind: SetKind,
    ledger: Ledger,
    tokenizer: TokenizerRecord,
    recipe: dict[str, Any],
    inputs: dict[str, FileRecord],
    texts: dict[str, TextRecord],
) -> Manifest:
    """Publish a set that has a pair of files for each of its columns, and is not packed."""
    aside.resolved.write_text(run.resolved, encoding="utf-8")
    manifest = Manifest(
        packed=False,
        seq_length=None,
        strategy=None,
        mask=None,
        seed=run.pack.seed,
        num_rows=ledger.kept.samples,
        num_samples=ledger.kept.samples,
        ledger=ledger,
        tokenizer=tokenizer,
        recipe=recipe,
        inputs=inputs,
        files=file_records(aside),
        seqpack_version=__version__,
        kind=kind,
        texts=texts,
    )
    publish_set(aside, paths, manifest)
    return manifest


def packing_record(strategy: StrategyOptions, on_overlong: str) -> dict[str, Any]:
    """How samples were packed, for the manifest."""
    limits = {"align": strategy.align, "max_docs": strategy.max_docs, "pack_window": strategy.pack_window}
    return limits | {"on_overlong": on_overlong}


def line_writer(write: Callable[[str], object]) -> Callable[[Loss], None]:
    """Writes losses as lines of ``rejects.jsonl``."""

    def write_line(loss: Loss) -> None:
        write(loss.to_json() + "\n")

    return write_line


def tokenizer_record(tokenizer: Tokenizer, eos_token_id: int | None, pad_token_id: int) -> TokenizerRecord:
    return TokenizerRecord(
        str(tokenizer.directory), tokenizer.fingerprint(), tokenizer.vocab_size, eos_token_id, pad_token_id
    )
