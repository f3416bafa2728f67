"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, no_progress
from seqpack.hooks.host import plugin_host
from seqpack.io.indexed import IndexedDataset, IndexedWriter
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, PieceIndex, file_records
from seqpack.io.publish import partial_folder, publish
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.materialize import TokenSource, write_packs
from seqpack.pipeline.samples import KeptSample, Loss, SampleSource, check_length
from seqpack.text.labels import Finding


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published; ``findings`` are about its labels, ``note`` about the template."""

    paths: DataSetPaths
    manifest: Manifest
    note: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger


def preprocess(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    *,
    resolved: str = "",
    progress: Progress = no_progress,
) -> DataSetResult:
    """Tokenize the data and write the set ``--output-prefix`` (its files are listed in ``io/FORMAT.md``).

    ``resolved`` is the text of ``resolved.yaml``. Everything is written aside and published at the end by renames, the
    manifest last. Raises ConfigError, DataError, DataLossError and DeviceError (disk full) with nothing published.
    """
    check_length(length, packs=pack.packs)
    paths = check_output(write)
    strategy = plugin_host().strategy(pack.strategy)
    source = SampleSource.open(input, text)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spool = DataSetPaths(folder / "samples") if pack.packs else aside
        pieces = _spool(source, length, spool, aside.rejects, progress)
        source.check_loss(length)
        num_rows = len(pieces)
        if pack.packs:
            assert length.seq_length is not None
            tokens = spooled(spool, pieces)
            plan = make_plan(strategy, tokens.lengths, seq_length=length.seq_length, seed=pack.seed)
            source.ledger.padding = write_packs(
                plan,
                tokens,
                aside,
                mask=pack.mask,
                pad_token_id=source.tokenizer.pad_token_id,
                progress=progress,
            )
            num_rows = len(plan)
        else:
            pieces.write(aside.index)
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = Manifest(
            packed=pack.packs,
            seq_length=length.seq_length if pack.packs else None,
            strategy=strategy.name if pack.packs else None,
            mask=pack.mask if pack.packs else None,
            seed=pack.seed,
            num_rows=num_rows,
            num_samples=source.ledger.kept.samples,
            ledger=source.ledger,
            tokenizer=_tokenizer_record(source),
            recipe=source.recipe | {"seq_length": length.seq_length, "on_overlong": length.on_overlong},
            inputs={str(file): FileRecord.of(file) for file in source.files},
            files=file_records(aside),
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest)
    return DataSetResult(paths, manifest, source.note, tuple(source.findings()))


def check_output(write: WriteOptions) -> DataSetPaths:
    """Where the set goes; ConfigError if one is there and ``--overwrite`` is not given."""
    paths = DataSetPaths(write.output_prefix)
    existing = next((path for path in (paths.manifest, *paths.files) if path.exists()), None)
    if existing and not write.overwrite:
        raise ConfigError(
            "SP004", f"{existing} exists", help="choose another --output-prefix, or replace it with --overwrite"
        )
    return paths


def publish_set(aside: DataSetPaths, paths: DataSetPaths, manifest: Manifest) -> None:
    """Move a finished set to its place; its manifest comes last and vouches for the rest."""
    manifest.write(aside.manifest)
    publish(aside.prefix.parent, paths.prefix.parent, [path.name for path in (*aside.files, aside.manifest)])


def spooled(paths: DataSetPaths, pieces: PieceIndex) -> TokenSource:
    """A set of one sample per row, as a source to pack from."""
    input_ids, labels = IndexedDataset(paths.column("input_ids")), IndexedDataset(paths.column("labels"))
    return TokenSource(input_ids.tokens, labels.tokens, input_ids.starts, pieces)


def _spool(
    source: SampleSource, length: LengthOptions, paths: DataSetPaths, rejects: Path, progress: Progress
) -> PieceIndex:
    """Write the tokenized samples, one per row, and what was lost; returns their index."""
    columns = _SampleColumns(tuple(map(str, source.files)))
    with (
        IndexedWriter(paths.column("input_ids")) as input_ids,
        IndexedWriter(paths.column("labels")) as labels,
        IndexedWriter(paths.column("attention_mask")) as attention_mask,
        rejects.open("w", encoding="utf-8") as lost,
        progress("tokenize", unit="samples") as advance,
    ):
        for batch in source.tokenize(length, lost=_line_writer(lost.write)):
            if batch:
                lengths = columns.add(batch)
                input_ids.append(np.concatenate([sample.tokens.input_ids for sample in batch]), lengths)
                labels.append(np.concatenate([sample.tokens.labels for sample in batch]), lengths)
                attention_mask.append(np.ones(lengths.sum(), np.int32), lengths)
            advance(len(batch))
    return columns.index()


class _SampleColumns:
    """Collects the piece index of a set of one sample per row."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._batches: list[NDArray[np.int64]] = []

    def add(self, batch: list[KeptSample]) -> NDArray[np.int64]:
        """Returns the lengths of the samples."""
        rows = [(len(sample.tokens), sample.tokens.num_trained, sample.file, sample.line) for sample in batch]
        self._batches.append(np.array(rows, np.int64))
        return self._batches[-1][:, 0]

    def index(self) -> PieceIndex:
        columns = np.concatenate(self._batches) if self._batches else np.zeros((0, 4), np.int64)
        length, num_targets, file = columns[:, :3].astype(np.int32).T
        sample = np.arange(len(columns), dtype=np.int64)
        return PieceIndex(sample, sample, length, num_targets, file, columns[:, 3], self._sources)


def _line_writer(write: Callable[[str], object]) -> Callable[[Loss], None]:
    def write_line(loss: Loss) -> None:
        value = {"key": loss.key, "outcome": loss.outcome, "reason": loss.reason, "tokens": loss.tokens}
        write(json.dumps(value, ensure_ascii=False) + "\n")

    return write_line


def _tokenizer_record(source: SampleSource) -> TokenizerRecord:
    tokenizer = source.tokenizer
    return TokenizerRecord(
        str(tokenizer.directory),
        tokenizer.fingerprint(),
        tokenizer.vocab_size,
        source.eos_token_id,
        tokenizer.pad_token_id,
    )
