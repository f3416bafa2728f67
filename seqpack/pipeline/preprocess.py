"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack import __version__
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PackingStrategy
from seqpack.io.indexed import IndexedDataset, IndexedWriter
from seqpack.io.manifest import FileRecord, Manifest
from seqpack.io.packed import DataSetPaths, PieceIndex, file_records
from seqpack.io.publish import partial_folder
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.inputs import ResolvedInput, resolve_input
from seqpack.pipeline.materialize import TokenSource, write_packs
from seqpack.pipeline.output import DataSetResult, check_output, line_writer, publish_set, tokenizer_record
from seqpack.pipeline.pretrain import write_documents
from seqpack.pipeline.samples import KeptSample, SampleSource, check_length


def preprocess(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    *,
    resolved: str = "",
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> DataSetResult:
    """Tokenize the data and write the set ``--output-prefix`` (its files are listed in ``io/FORMAT.md``).

    Conversations become samples with labels, text becomes documents for pretraining: the handler decides. ``resolved``
    is the text of ``resolved.yaml``; ``say`` hears what was decided on the way. Everything is written aside and
    published at the end by renames, the manifest last. Raises ConfigError, DataError, DataLossError and DeviceError
    (disk full) with nothing published.
    """
    check_length(length, packs=pack.packs)
    strategy = plugin_host().strategy(pack.strategy)
    found = resolve_input(input, say=say)
    if found.text_keys:
        return write_documents(found, text, length, pack, write, resolved=resolved, progress=progress, say=say)
    return _write_samples(found, text, length, pack, write, strategy, resolved=resolved, progress=progress, say=say)


def _write_samples(
    input: ResolvedInput,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    strategy: Component[PackingStrategy],
    *,
    resolved: str,
    progress: Progress,
    say: Say,
) -> DataSetResult:
    paths = DataSetPaths(write.output_prefix)
    check_output(paths, write)
    source = SampleSource.open(input, text)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spool = DataSetPaths(folder / "samples") if pack.packs else aside
        pieces = _spool(source, length, spool, aside.rejects, progress)
        source.check_loss(length)
        if length.append_eod:
            say(_eod_note(source))
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
            tokenizer=tokenizer_record(source.tokenizer, source.eos_token_id),
            recipe=source.recipe | _recipe(length),
            inputs={str(file): FileRecord.of(file) for file in source.files},
            files=file_records(aside),
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest)
    return DataSetResult(paths, manifest)


def _recipe(length: LengthOptions) -> dict[str, Any]:
    return {"seq_length": length.seq_length, "on_overlong": length.on_overlong, "append_eod": length.append_eod}


def _eod_note(source: SampleSource) -> str:
    count, ended = source.ledger.kept.samples + source.ledger.all_dropped.samples, source.num_ended
    if not ended:
        return f"--append-eod: the end token was appended to {count:,} samples, and is trained on"
    return f"--append-eod: {ended:,} of {count:,} samples end with the end token already; it was not doubled"


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
        for batch in source.tokenize(length, lost=line_writer(lost.write)):
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
