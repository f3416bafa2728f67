"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

from dataclasses import dataclass

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, no_progress
from seqpack.hooks.host import plugin_host
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, file_records
from seqpack.io.publish import partial_folder, publish
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WorkOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.materialize import write_packs
from seqpack.pipeline.samples import SampleSource, check_length
from seqpack.pipeline.spool import spool
from seqpack.text.engines import Choice

DEFAULT_WORK = WorkOptions()


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published; ``engine`` is None if nothing was tokenized for it."""

    paths: DataSetPaths
    manifest: Manifest
    engine: Choice | None = None

    @property
    def ledger(self) -> Ledger:
        return self.manifest.ledger


def preprocess(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    work: WorkOptions = DEFAULT_WORK,
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
    engine = source.choose_engine(text.tokenizer_engine)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spooled = spool(source, length, folder / "samples", workers=work.workers, progress=progress)
        source.check_loss(length)
        spooled.paths.rejects.replace(aside.rejects)
        if pack.packs:
            assert length.seq_length is not None
            tokens = spooled.tokens(source)
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
            num_rows = spooled.write_rows(source, aside)
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
        publish_set(aside, paths, manifest)
    return DataSetResult(paths, manifest, engine)


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


def _tokenizer_record(source: SampleSource) -> TokenizerRecord:
    tokenizer = source.tokenizer
    return TokenizerRecord(
        str(tokenizer.directory),
        tokenizer.fingerprint(),
        tokenizer.vocab_size,
        source.eos_token_id,
        tokenizer.pad_token_id,
    )
