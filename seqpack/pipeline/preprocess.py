"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row.

What only some data need is imported when they come: a small file should not wait for it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from seqpack import __version__
from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PackingStrategy
from seqpack.io.manifest import Manifest
from seqpack.io.packed import DataSetPaths, file_records
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import (
    InputOptions,
    LengthOptions,
    MergeOptions,
    PackOptions,
    TextOptions,
    WorkOptions,
    WriteOptions,
)
from seqpack.packing.planning import check_strategy, cuts_samples, make_plan
from seqpack.pipeline.emit import emit
from seqpack.pipeline.existing import unchanged_set
from seqpack.pipeline.inputs import ResolvedInput, resolve_input
from seqpack.pipeline.materialize import write_packs
from seqpack.pipeline.mindspeed import document_index, subset_sizes
from seqpack.pipeline.output import (
    DataSetResult,
    PartsResult,
    Result,
    line_writer,
    packing_record,
    publish_set,
    tokenizer_record,
)
from seqpack.pipeline.parts import PartStore, open_parts, parts_folder, saved_run
from seqpack.pipeline.pregrouped import STRATEGY as PREGROUPED
from seqpack.pipeline.pregrouped import check_pregrouped, group_plan
from seqpack.pipeline.run import Run
from seqpack.pipeline.sample_parts import SampleParts, make_sample_part
from seqpack.pipeline.samples import SampleSource, check_length, check_loss
from seqpack.pipeline.table import TokenSource, pieces_of_table
from seqpack.pipeline.work import MakePart, make_parts
from seqpack.text.labels import Finding

if TYPE_CHECKING:
    from seqpack.pipeline.columns import ColumnMaker

DEFAULT_WORK = WorkOptions()
NO_COMPAT = CompatOptions()


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
    say: Say = say_nothing,
) -> Result:
    """Tokenize the data and write the set ``--output-prefix`` (its files are listed in ``io/FORMAT.md``).

    Conversations become samples with labels, text becomes documents for pretraining: the handler decides. ``resolved``
    is the text of ``resolved.yaml``; ``say`` hears what was decided on the way. Everything is written aside and
    published at the end by renames, the manifest last; what an earlier run of the same work finished is not done
    again (see ``parts``). Raises ConfigError, DataError, DataLossError and DeviceError (disk full) with nothing
    published.
    """
    return carry_out(Run(input, text, length, pack, write, work, compat, resolved, progress=progress, say=say))


def merge(options: MergeOptions, *, progress: Progress = no_progress, say: Say = say_nothing) -> Result:
    """Make the set out of the parts that runs with ``--shard-index`` left for it. Raises as ``preprocess``."""
    path = saved_run(options.output_prefix)
    run = Run.from_json(path.read_text(encoding="utf-8"), place=path)
    write = dataclasses.replace(run.write, overwrite=run.write.overwrite or options.overwrite)
    return carry_out(dataclasses.replace(run, write=write, progress=progress, say=say))


def carry_out(run: Run) -> Result:
    """See ``preprocess``."""
    found, strategy, run = _resolve(run)
    if found.text_keys:
        from seqpack.pipeline.pretrain import preprocess_documents

        return preprocess_documents(found, run)
    if found.kind != "sft":
        return _preprocess_others(found, run)
    return _preprocess_samples(found, strategy, run)


def part_maker(run: Run) -> MakePart:
    """Makes parts of a run that another process carries out, in the folder it has opened."""
    found, strategy, run = _resolve(run)
    store = PartStore(parts_folder(run.write.output_prefix), {})
    if found.text_keys:
        from seqpack.pipeline.documents import DocumentSource

        documents = DocumentSource.open(found, run.text, run.length, run.compat)
        documents.choose_engine(run.text.tokenizer_engine)
        return lambda shard, advance: documents.make_part(shard, store, advance)
    source = _open(found, run)
    if found.kind != "sft":
        from seqpack.pipeline.columns import choose_column_engine, column_part_maker

        maker = _column_maker(source)
        choose_column_engine(source, maker, run.text.tokenizer_engine)
        return column_part_maker(source, maker, run, store)
    source.choose_engine(run.text.tokenizer_engine)
    return _sample_maker(source, strategy, run, store)


def _sample_maker(source: SampleSource, strategy: Component[PackingStrategy], run: Run, store: PartStore) -> MakePart:
    length = run.length
    if cuts_samples(strategy) and run.pack.packs:
        length = dataclasses.replace(length, seq_length=None)  # no sample is too long for it
    return lambda shard, advance: make_sample_part(source.uncounted(), shard, length, store, advance)


def _resolve(run: Run) -> tuple[ResolvedInput, Component[PackingStrategy], Run]:
    """The input, the strategy, and the run with what follows from ``--compat``; all errors of the flags."""
    pack = run.pack
    check_length(run.length, packs=pack.packs)
    strategy = plugin_host().strategy(pack.strategy)
    check_strategy(strategy, seq_length=run.length.seq_length, align=pack.align, max_docs=pack.max_docs)
    refuse_idle_flags(run.length, pack, run.compat)
    pack.check()
    found = resolve_input(run.input, say=run.say)
    if found.pregrouped and not found.text_keys:
        check_pregrouped(pack, run.compat)
    if run.compat.compat == "mindspeed":
        from seqpack.pipeline.mindspeed_input import mindspeed_input

        # MindSpeed-LLM drops without a limit; whoever asks for its bytes gets them, and a ledger that says so
        run = dataclasses.replace(run, length=dataclasses.replace(run.length, max_drop=1.0))
        found = mindspeed_input(found, run.input)
    return found, strategy, run


def _open(found: ResolvedInput, run: Run) -> SampleSource:
    if run.compat.compat == "mindspeed":
        from seqpack.pipeline.compat import open_mindspeed_source

        return open_mindspeed_source(found, run.text, run.length, run.pack, run.compat)
    return SampleSource.open(found, run.text)


def _preprocess_others(found: ResolvedInput, run: Run) -> Result:
    """Preference pairs or prompts."""
    from seqpack.pipeline.columns import write_columns

    source = _open(found, run)
    return write_columns(source, _column_maker(source), run)


def _column_maker(source: SampleSource) -> ColumnMaker:
    if source.mindspeed is not None:
        from seqpack.pipeline.compat import mindspeed_maker

        return mindspeed_maker(source)
    from seqpack.pipeline.columns import PairMaker, PromptMaker

    return PairMaker(source) if source.input.kind == "pairwise" else PromptMaker(source)


def _preprocess_samples(found: ResolvedInput, strategy: Component[PackingStrategy], run: Run) -> Result:
    paths = DataSetPaths(run.write.output_prefix)
    source = _open(found, run)
    recipe = source.recipe | run.recipe() | {"cuts_samples": run.pack.packs and cuts_samples(strategy)}
    tokenizer = tokenizer_record(source.tokenizer, source.eos_token_id, source.pad_token_id)
    if same := unchanged_set(paths, run, recipe, tokenizer, found.files):
        return DataSetResult(paths, same, sources=tuple(found.files), is_unchanged=True)
    engine = source.choose_engine(run.text.tokenizer_engine)
    with open_parts(paths.prefix, run.part_settings(recipe, tokenizer), run) as store:
        make = _sample_maker(source, strategy, run, store)
        made = make_parts(store, found.files, found.shards(), make, run=run, tokenizer=source.needed_by_workers)
        # not before the workers are forked: threads that an engine starts do not live on in them
        told = (engine, tuple(found.files), source.note, _findings(source))
        if run.leaves_parts:
            return PartsResult(paths.prefix, store.folder, run.work.share, store.num_finished(), *told)
        source.forget_engine()
        aside = DataSetPaths(store.final / paths.prefix.name)
        samples = SampleParts.join(made.parts(store), store.final, tuple(map(str, found.files)))
        samples, duplicates = _accept(samples, source, run, aside)
        num_rows, extra = _write_set(samples, source, strategy, run, aside)
        aside.resolved.write_text(run.resolved, encoding="utf-8")
        manifest = Manifest(
            packed=run.pack.packs,
            seq_length=run.length.seq_length if run.pack.packs else None,
            strategy=_strategy_name(source, strategy) if run.pack.packs else None,
            mask=run.pack.mask_mode if run.pack.packs else None,
            seed=run.pack.seed,
            num_rows=num_rows,
            num_samples=samples.ledger.kept.samples,
            ledger=samples.ledger,
            tokenizer=tokenizer,
            recipe=recipe | {"tokenizer_engine": engine.label},
            inputs=made.records(),
            files=file_records(aside),
            packing=packing_record(run.pack, run.length.on_overlong) if run.pack.packs else {},
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest, extra=extra)
        store.remove()
    return DataSetResult(paths, manifest, *told, duplicates=duplicates)


def _findings(source: SampleSource) -> tuple[Finding, ...]:
    """What is wrong with the labels; those of MindSpeed-LLM are what was asked for."""
    return () if source.mindspeed is not None else tuple(source.findings())


def _accept(samples: SampleParts, source: SampleSource, run: Run, aside: DataSetPaths) -> tuple[SampleParts, int]:
    """The samples the set is made of, and the number of duplicates left in; raises if too little is left."""
    check_loss(samples.ledger, source.files, run.length)
    if run.length.append_eod:
        run.say(_eod_note(samples))
    samples.write_rejects(aside.rejects)
    if run.length.dedup == "exact":
        return samples.without_duplicates(aside.prefix.parent, aside.rejects), 0
    return samples, samples.num_duplicates()


def _write_set(
    samples: SampleParts,
    source: SampleSource,
    strategy: Component[PackingStrategy],
    run: Run,
    aside: DataSetPaths,
) -> tuple[int, list[str]]:
    """Packs, or one sample per row; returns the number of rows, and names of files beyond our own."""
    if not run.pack.packs:
        documents = None
        if source.mindspeed is not None:
            subset_sizes(len(samples.is_kept), source.mindspeed.n_subs)  # ConfigError if there are too many
            documents = document_index(samples.is_kept)
        return samples.write_rows(aside, documents), []
    with samples.tokens() as tokens:
        plan = _plan(samples, source, strategy, tokens, run, aside)
        write_packs(
            plan,
            tokens,
            aside,
            ledger=samples.ledger,
            mask=run.pack.mask_mode,
            pad_token_id=source.pad_token_id,
            progress=run.progress,
        )
    return len(plan), emit(run.write, plan, aside)


def _plan(
    samples: SampleParts,
    source: SampleSource,
    strategy: Component[PackingStrategy],
    tokens: TokenSource,
    run: Run,
    aside: DataSetPaths,
) -> PackPlan:
    assert run.length.seq_length is not None
    if source.input.pregrouped:
        with aside.rejects.open("a", encoding="utf-8") as rejects:
            pieces = pieces_of_table(tokens.table, np.arange(len(tokens)), tokens.sources)
            plan = group_plan(pieces, run.length, samples.ledger, line_writer(rejects.write))
        check_loss(samples.ledger, source.files, run.length)
        return plan
    if source.mindspeed is not None:
        return source.mindspeed.plan(tokens.lengths, samples.is_kept)
    return make_plan(strategy, tokens.lengths, seq_length=run.length.seq_length, **run.pack.planning)


def refuse_idle_flags(length: LengthOptions, pack: PackOptions, compat: CompatOptions) -> None:
    """ConfigError for a flag that has no place in this run."""
    if not pack.packs:
        flags = ("strategy", "align", "max_docs", "pack_window")
        refuse_idle(pack, flags, because="nothing is packed", help="add --pack or --neat-pack")
    elif cuts_samples(plugin_host().strategy(pack.strategy)):
        refuse_idle(
            length,
            ("on_overlong", "split_sft"),
            because=f"strategy {pack.strategy!r} cuts samples wherever a pack ends",
            help="leave it out, or choose another strategy",
        )
    if compat.compat == "mindspeed":
        why = {"because": "--compat mindspeed packs and cuts by its own rules", "help": "leave one of them out"}
        refuse_idle(pack, ("strategy", "align", "max_docs", "pack_window"), **why)
        refuse_idle(length, ("on_overlong", "split_sft", "dedup"), **why)


def _strategy_name(source: SampleSource, strategy: Component[PackingStrategy]) -> str:
    if source.input.pregrouped:
        return PREGROUPED
    return strategy.name if source.mindspeed is None else "mindspeed"


def _eod_note(samples: SampleParts) -> str:
    ledger, ended = samples.ledger, samples.num_ended
    count = ledger.kept.samples + ledger.all_dropped.samples
    if not ended:
        return f"--append-eod: the end token was appended to {count:,} samples, and is trained on"
    return f"--append-eod: {ended:,} of {count:,} samples end with the end token already; it was not doubled"
