"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, no_progress
from seqpack.hooks.host import plugin_host
from seqpack.io.indexed import IndexedDataset, IndexedWriter, bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, PieceIndex, file_records
from seqpack.io.pai import pai_prefix
from seqpack.io.publish import partial_folder, publish
from seqpack.options.compat import CompatOptions
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.compat import use_mindspeed_rules, write_mindspeed_documents
from seqpack.pipeline.emit import emit
from seqpack.pipeline.materialize import TokenSource, write_packs
from seqpack.pipeline.samples import KeptBatch, Loss, SampleSource, check_length
from seqpack.text.engines import Choice

NO_COMPAT = CompatOptions()


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published.

    ``engine`` is None if nothing was tokenized for it; ``sources`` are the raw files in the order they were read.
    """

    paths: DataSetPaths
    manifest: Manifest
    engine: Choice | None = None
    sources: tuple[Path, ...] = ()

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger


def preprocess(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    compat: CompatOptions = NO_COMPAT,
    *,
    resolved: str = "",
    progress: Progress = no_progress,
) -> DataSetResult:
    """Tokenize the data and write the set ``--output-prefix`` (its files are listed in ``io/FORMAT.md``).

    ``resolved`` is the text of ``resolved.yaml``. Everything is written aside and published at the end by renames, the
    manifest last. Raises ConfigError, DataError, DataLossError and DeviceError (disk full) with nothing published.
    """
    check_length(length, packs=pack.packs)
    if write.emit == "pai" and not pack.packs:
        raise ConfigError("SP008", "--emit pai lays out packs", help="add --neat-pack and --seq-length")
    paths = check_output(write)
    strategy = plugin_host().strategy(pack.strategy)
    source = SampleSource.open(input, text)
    if compat.compat == "mindspeed":
        use_mindspeed_rules(source, length, pack, compat)
    engine = source.choose_engine(text.tokenizer_engine)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spool = DataSetPaths(folder / "samples") if pack.packs else aside
        pieces = _spool(source, length, spool, aside.rejects, progress)
        # MindSpeed-LLM drops without a limit; whoever asks for its bytes gets them, and a ledger that says so
        source.check_loss(length if source.mindspeed is None else dataclasses.replace(length, max_drop=1.0))
        num_rows = len(pieces)
        extra: list[str] = []
        if pack.packs:
            assert length.seq_length is not None
            tokens = spooled(spool, pieces)
            if source.mindspeed is None:
                plan = make_plan(strategy, tokens.lengths, seq_length=length.seq_length, seed=pack.seed)
            else:
                plan = source.mindspeed.plan(tokens.lengths, np.array(source.is_kept))
            source.ledger.padding = write_packs(
                plan,
                tokens,
                aside,
                mask=pack.mask,
                pad_token_id=source.pad_token_id,
                progress=progress,
            )
            num_rows = len(plan)
            extra = emit(write, plan, aside)
        else:
            pieces.write(aside.index)
            if source.mindspeed is not None:
                write_mindspeed_documents(aside, pieces, source.is_kept)
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = Manifest(
            packed=pack.packs,
            seq_length=length.seq_length if pack.packs else None,
            strategy=_strategy_name(source, strategy.name) if pack.packs else None,
            mask=pack.mask if pack.packs else None,
            seed=pack.seed,
            num_rows=num_rows,
            num_samples=source.ledger.kept.samples,
            ledger=source.ledger,
            tokenizer=_tokenizer_record(source),
            recipe=source.recipe
            | {
                "seq_length": length.seq_length,
                "on_overlong": length.on_overlong,
                "tokenizer_engine": engine.label,
            },
            inputs={str(file): FileRecord.of(file) for file in source.files},
            files=file_records(aside),
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest, extra=extra)
    return DataSetResult(paths, manifest, engine, tuple(source.files))


def check_output(write: WriteOptions) -> DataSetPaths:
    """Where the set goes; ConfigError if one is there and ``--overwrite`` is not given."""
    paths = DataSetPaths(write.output_prefix)
    pair = pai_prefix(paths.prefix)
    extra = (bin_path(pair), idx_path(pair)) if write.emit == "pai" else ()
    existing = next((path for path in (paths.manifest, *paths.files, *extra) if path.exists()), None)
    if existing and not write.overwrite:
        raise ConfigError(
            "SP004", f"{existing} exists", help="choose another --output-prefix, or replace it with --overwrite"
        )
    return paths


def publish_set(aside: DataSetPaths, paths: DataSetPaths, manifest: Manifest, *, extra: Sequence[str] = ()) -> None:
    """Move a finished set to its place, ``extra`` files first; its manifest comes last and vouches for the rest."""
    manifest.write(aside.manifest)
    names = [*extra, *(path.name for path in (*aside.files, aside.manifest))]
    publish(aside.prefix.parent, paths.prefix.parent, names)


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
            tokens = batch.tokens
            columns.add(batch)
            input_ids.append(tokens.input_ids, tokens.lengths)
            labels.append(tokens.labels, tokens.lengths)
            attention_mask.append(np.ones(len(tokens.input_ids), np.int32), tokens.lengths)
            advance(len(batch.tokens))
    return columns.index()


class _SampleColumns:
    """Collects the piece index of a set of one sample per row."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._columns: tuple[list[NDArray[np.integer]], ...] = ([], [], [], [])

    def add(self, batch: KeptBatch) -> None:
        length, num_targets, file, line = self._columns
        length.append(batch.tokens.lengths.astype(np.int32))
        num_targets.append(batch.tokens.num_trained.astype(np.int32))
        file.append(batch.file.astype(np.int32))
        line.append(batch.line)

    def index(self) -> PieceIndex:
        small, large = np.zeros(0, np.int32), np.zeros(0, np.int64)
        empty = (small, small, small, large)
        length, num_targets, file, line = (
            np.concatenate([first, *parts]) for first, parts in zip(empty, self._columns, strict=True)
        )
        sample = np.arange(len(length), dtype=np.int64)
        return PieceIndex(sample, sample, length, num_targets, file, line, self._sources)


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
        source.pad_token_id,
    )


def _strategy_name(source: SampleSource, name: str) -> str:
    return name if source.mindspeed is None else "mindspeed"
