"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqpack import __version__
from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, no_progress
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PackingStrategy
from seqpack.io.indexed import bin_path, idx_path
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, file_records
from seqpack.io.pai import pai_prefix
from seqpack.io.publish import partial_folder, publish
from seqpack.options.compat import CompatOptions
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WorkOptions, WriteOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.compat import use_mindspeed_rules, write_mindspeed_documents
from seqpack.pipeline.emit import emit
from seqpack.pipeline.materialize import TokenSource, write_packs
from seqpack.pipeline.samples import SampleSource, check_length
from seqpack.pipeline.spool import Spooled, spool
from seqpack.text.engines import Choice
from seqpack.text.labels import Finding

DEFAULT_WORK = WorkOptions()
NO_COMPAT = CompatOptions()


@dataclass(frozen=True, slots=True)
class DataSetResult:
    """A data set that was just published.

    ``engine`` is None if nothing was tokenized for it; ``sources`` are the raw files in the order they were read;
    ``findings`` are about its labels, ``note`` about the template.
    """

    paths: DataSetPaths
    manifest: Manifest
    engine: Choice | None = None
    sources: tuple[Path, ...] = ()
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
    work: WorkOptions = DEFAULT_WORK,
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
    paths = check_output(write, packs=pack.packs)
    strategy = plugin_host().strategy(pack.strategy)
    source = SampleSource.open(input, text)
    if compat.compat == "mindspeed":
        use_mindspeed_rules(source, length, pack, compat)
        # MindSpeed-LLM drops without a limit; whoever asks for its bytes gets them, and a ledger that says so
        length = dataclasses.replace(length, max_drop=1.0)
        work = dataclasses.replace(work, workers=1)
    engine = source.choose_engine(text.tokenizer_engine)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spooled = spool(source, length, folder / "samples", workers=work.workers, progress=progress)
        source.check_loss(length)
        spooled.paths.rejects.replace(aside.rejects)
        extra: list[str] = []
        if pack.packs:
            tokens = spooled.tokens(source)
            plan = _plan(source, strategy, tokens, length, pack)
            source.ledger.padding = write_packs(
                plan, tokens, aside, mask=pack.mask, pad_token_id=source.pad_token_id, progress=progress
            )
            num_rows = len(plan)
            extra = emit(write, plan, aside)
        else:
            num_rows = _write_rows(source, spooled, aside)
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = Manifest(
            packed=pack.packs,
            seq_length=length.seq_length if pack.packs else None,
            strategy=_strategy_name(source, strategy) if pack.packs else None,
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
                "compat": compat.compat,
                "tokenizer_engine": engine.label,
            },
            inputs={str(file): FileRecord.of(file) for file in source.files},
            files=file_records(aside),
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest, extra=extra)
    return DataSetResult(
        paths, manifest, engine, tuple(source.files), note=source.note, findings=tuple(source.findings())
    )


def check_output(write: WriteOptions, *, packs: bool = True) -> DataSetPaths:
    """Where the set goes; ConfigError if one is there without ``--overwrite``, or ``--emit`` cannot be done."""
    if write.emit == "pai" and not packs:
        raise ConfigError("SP008", "--emit pai lays out packs", help="add --neat-pack and --seq-length")
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


def _plan(
    source: SampleSource,
    strategy: Component[PackingStrategy],
    tokens: TokenSource,
    length: LengthOptions,
    pack: PackOptions,
) -> PackPlan:
    assert length.seq_length is not None
    if source.mindspeed is not None:
        return source.mindspeed.plan(tokens.lengths, np.array(source.is_kept))
    return make_plan(strategy, tokens.lengths, seq_length=length.seq_length, seed=pack.seed)


def _write_rows(source: SampleSource, spooled: Spooled, aside: DataSetPaths) -> int:
    num_rows = spooled.write_rows(source, aside)
    if source.mindspeed is not None:
        write_mindspeed_documents(aside, spooled.pieces(source), source.is_kept)
    return num_rows


def _strategy_name(source: SampleSource, strategy: Component[PackingStrategy]) -> str:
    return strategy.name if source.mindspeed is None else "mindspeed"


def _tokenizer_record(source: SampleSource) -> TokenizerRecord:
    tokenizer = source.tokenizer
    return TokenizerRecord(
        str(tokenizer.directory),
        tokenizer.fingerprint(),
        tokenizer.vocab_size,
        source.eos_token_id,
        source.pad_token_id,
    )
