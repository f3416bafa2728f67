"""``seqpack preprocess``: raw files to a data set on disk, packed or one sample per row."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from seqpack import __version__
from seqpack.core.plan import PackPlan
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PackingStrategy
from seqpack.io.manifest import FileRecord, Manifest
from seqpack.io.packed import DataSetPaths, file_records
from seqpack.io.publish import partial_folder
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WorkOptions, WriteOptions
from seqpack.packing.planning import check_strategy, make_plan
from seqpack.pipeline.compat import use_mindspeed_rules, write_mindspeed_documents
from seqpack.pipeline.emit import emit
from seqpack.pipeline.inputs import resolve_input
from seqpack.pipeline.materialize import TokenSource, write_packs
from seqpack.pipeline.output import (
    DataSetResult,
    check_output,
    line_writer,
    packing_record,
    publish_set,
    tokenizer_record,
)
from seqpack.pipeline.pregrouped import STRATEGY as PREGROUPED
from seqpack.pipeline.pregrouped import check_pregrouped, group_plan
from seqpack.pipeline.pretrain import write_documents
from seqpack.pipeline.samples import SampleSource, check_length
from seqpack.pipeline.spool import Spooled, spool
from seqpack.text.engines import Choice

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
) -> DataSetResult:
    """Tokenize the data and write the set ``--output-prefix`` (its files are listed in ``io/FORMAT.md``).

    Conversations become samples with labels, text becomes documents for pretraining: the handler decides. ``resolved``
    is the text of ``resolved.yaml``; ``say`` hears what was decided on the way. Everything is written aside and
    published at the end by renames, the manifest last. Raises ConfigError, DataError, DataLossError and DeviceError
    (disk full) with nothing published.
    """
    check_length(length, packs=pack.packs)
    strategy = plugin_host().strategy(pack.strategy)
    check_strategy(strategy, seq_length=length.seq_length, align=pack.align, max_docs=pack.max_docs)
    _refuse_idle_flags(length, pack, compat)
    pack.check()
    found = resolve_input(input, say=say)
    if found.pregrouped and not found.text_keys:
        check_pregrouped(pack, compat)
    if compat.compat == "mindspeed":
        # MindSpeed-LLM drops without a limit; whoever asks for its bytes gets them, and a ledger that says so
        length = dataclasses.replace(length, max_drop=1.0)
    if found.text_keys:
        return write_documents(found, text, length, pack, write, compat, resolved=resolved, progress=progress, say=say)
    check_output(DataSetPaths(write.output_prefix), write, packs=pack.packs)
    source = SampleSource.open(found, text)
    if compat.compat == "mindspeed":
        use_mindspeed_rules(source, length, pack, compat)
        work = dataclasses.replace(work, workers=1)
    engine = source.choose_engine(text.tokenizer_engine)
    return _write_samples(
        source, engine, strategy, length, pack, write, work, compat, resolved=resolved, progress=progress, say=say
    )


def _write_samples(
    source: SampleSource,
    engine: Choice,
    strategy: Component[PackingStrategy],
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    work: WorkOptions,
    compat: CompatOptions,
    *,
    resolved: str,
    progress: Progress,
    say: Say,
) -> DataSetResult:
    paths = DataSetPaths(write.output_prefix)
    with partial_folder(paths.prefix) as folder:
        aside = DataSetPaths(folder / paths.prefix.name)
        spooled = spool(source, length, folder / "samples", workers=work.workers, progress=progress)
        source.check_loss(length)
        if length.append_eod:
            say(_eod_note(source))
        spooled.paths.rejects.replace(aside.rejects)
        num_rows, extra = _write_set(source, spooled, aside, strategy, length, pack, write, progress)
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = Manifest(
            packed=pack.packs,
            seq_length=length.seq_length if pack.packs else None,
            strategy=_strategy_name(source, strategy) if pack.packs else None,
            mask=pack.mask_mode if pack.packs else None,
            seed=pack.seed,
            num_rows=num_rows,
            num_samples=source.ledger.kept.samples,
            ledger=source.ledger,
            tokenizer=tokenizer_record(source.tokenizer, source.eos_token_id, source.pad_token_id),
            recipe=source.recipe | _recipe(length) | {"compat": compat.compat, "tokenizer_engine": engine.label},
            inputs={str(file): FileRecord.of(file) for file in source.files},
            files=file_records(aside),
            packing=packing_record(pack, length.on_overlong) if pack.packs else {},
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest, extra=extra)
    return DataSetResult(
        paths, manifest, engine, tuple(source.files), note=source.note, findings=tuple(source.findings())
    )


def _write_set(
    source: SampleSource,
    spooled: Spooled,
    aside: DataSetPaths,
    strategy: Component[PackingStrategy],
    length: LengthOptions,
    pack: PackOptions,
    write: WriteOptions,
    progress: Progress,
) -> tuple[int, list[str]]:
    """Packs, or one sample per row; returns the number of rows, and names of files beyond our own."""
    if not pack.packs:
        return _write_rows(source, spooled, aside), []
    tokens = spooled.tokens(source)
    plan = _plan(source, strategy, tokens, length, pack, aside)
    source.ledger.padding = write_packs(
        plan, tokens, aside, mask=pack.mask_mode, pad_token_id=source.pad_token_id, progress=progress
    )
    return len(plan), emit(write, plan, aside)


def _refuse_idle_flags(length: LengthOptions, pack: PackOptions, compat: CompatOptions) -> None:
    """ConfigError for a flag that has no place in this run."""
    if not pack.packs:
        flags = ("strategy", "align", "max_docs", "pack_window")
        refuse_idle(pack, flags, because="nothing is packed", help="add --pack or --neat-pack")
        if length.on_overlong == "split":
            refuse_idle(length, ("on_overlong",), because="pieces go into packs", help="add --pack or --neat-pack")
    if compat.compat == "mindspeed":
        why = {"because": "--compat mindspeed packs and cuts by its own rules", "help": "leave one of them out"}
        refuse_idle(pack, ("strategy", "align", "max_docs", "pack_window"), **why)
        refuse_idle(length, ("on_overlong",), **why)


def _plan(
    source: SampleSource,
    strategy: Component[PackingStrategy],
    tokens: TokenSource,
    length: LengthOptions,
    pack: PackOptions,
    aside: DataSetPaths,
) -> PackPlan:
    assert length.seq_length is not None
    if source.input.pregrouped:
        with aside.rejects.open("a", encoding="utf-8") as rejects:
            plan = group_plan(tokens.pieces, length, source.ledger, line_writer(rejects.write))
        source.check_loss(length)
        return plan
    if source.mindspeed is not None:
        return source.mindspeed.plan(tokens.lengths, np.array(source.is_kept))
    split = length.on_overlong == "split"
    return make_plan(strategy, tokens.lengths, seq_length=length.seq_length, split=split, **pack.planning)


def _write_rows(source: SampleSource, spooled: Spooled, aside: DataSetPaths) -> int:
    num_rows = spooled.write_rows(source, aside)
    if source.mindspeed is not None:
        write_mindspeed_documents(aside, spooled.pieces(source), source.is_kept)
    return num_rows


def _strategy_name(source: SampleSource, strategy: Component[PackingStrategy]) -> str:
    if source.input.pregrouped:
        return PREGROUPED
    return strategy.name if source.mindspeed is None else "mindspeed"


def _recipe(length: LengthOptions) -> dict[str, Any]:
    return {"seq_length": length.seq_length, "on_overlong": length.on_overlong, "append_eod": length.append_eod}


def _eod_note(source: SampleSource) -> str:
    count, ended = source.ledger.kept.samples + source.ledger.all_dropped.samples, source.num_ended
    if not ended:
        return f"--append-eod: the end token was appended to {count:,} samples, and is trained on"
    return f"--append-eod: {ended:,} of {count:,} samples end with the end token already; it was not doubled"
