"""``seqpack stats``: how long the samples are, and what every layout would cost, before anything is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.core.types import running_sum
from seqpack.io.packed import KINDS
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.pipeline.forecast import BATCH_SIZE, Copies, Ending, Stats, forecast, sampling_error
from seqpack.pipeline.inputs import ResolvedInput, resolve_input
from seqpack.pipeline.layouts import KEPT_TOKENS, Layout, layout, plan_quality, suggest_length
from seqpack.pipeline.measure import Measured, measure
from seqpack.pipeline.pregrouped import group_offsets
from seqpack.pipeline.row_sample import RowSample
from seqpack.pipeline.samples import SampleSource, check_loss
from seqpack.pipeline.text_stats import text_stats


def stats(
    input: InputOptions,
    text: TextOptions,
    length: LengthOptions,
    *,
    seed: int,
    share: float = 1.0,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> Stats:
    """Tokenize the data, or the part ``share`` of the rows, and measure; writes nothing.

    Without ``--seq-length`` the smallest power of two that keeps 99.9 % of the tokens is taken, or all of them where a
    longer sample would be dropped or an error. Errors as ``preprocess`` raises them, up to planning.
    """
    found = resolve_input(input, say=say)
    if share < 1:
        found = replace(found, sampled=RowSample(share, seed))
    if found.text_keys:
        return text_stats(found, text, length, seed=seed, batch_size=batch_size, progress=progress)
    return _sample_stats(found, text, length, seed, batch_size, workers, progress)


def _sample_stats(
    found: ResolvedInput,
    text: TextOptions,
    length: LengthOptions,
    seed: int,
    batch_size: int,
    workers: int | None,
    progress: Progress,
) -> Stats:
    if found.kind != "sft":
        raise ConfigError(
            "SP134",
            f"handler {found.handler!r} gives {KINDS[found.kind]}; stats measures conversations and text only",
            help="choose the --handler of a conversation, if the data are that",
        )
    source = SampleSource.open(found, text)
    engine = source.choose_engine(text.tokenizer_engine)
    measured = measure(source, length, workers, progress)
    original = measured.original
    _check_taken(measured, source, length)
    seq_length = length.seq_length
    if seq_length is None:
        seq_length = suggest_length(original, kept=KEPT_TOKENS if length.on_overlong == "truncate" else 1.0)
        # once more, now that the length is known: the forecast must be what preprocess makes
        source = source.uncounted()
        measured = measure(source, replace(length, seq_length=seq_length), workers, progress)
    seen, taken = measured.seen, measured.taken
    return Stats(
        files=tuple(map(str, source.files)),
        engine=engine.label,
        engine_refused=engine.refused,
        handler=source.recipe["handler"],
        prompt_type=source.recipe["prompt_type"],
        ledger=source.ledger,
        longest=tuple(sorted(measured.losses, key=lambda loss: -loss[1])[:3]),
        copies=_copies(measured, source),
        endings=_endings(measured, source),
        sampled=sampling_error(original, found.sampled, seen=seen, taken=taken) if found.sampled else None,
        note=source.note,
        findings=tuple(source.findings()),
        **forecast(
            original,
            measured.fitted,
            seq_length=seq_length,
            was_given=length.seq_length is not None,
            seed=seed,
            batch_size=batch_size,
            cut=len(measured.losses),
            uncut=measured.uncut,
            scale=seen / taken if taken else 1.0,
            first=_as_grouped(measured, seq_length) if found.pregrouped else (),
        ),
    )


def _check_taken(measured: Measured, source: SampleSource, length: LengthOptions) -> None:
    if measured.seen and not measured.taken:
        raise ConfigError(
            "SP001", f"--sample takes none of {measured.seen:,} rows", help="take a larger part, or another --seed"
        )
    check_loss(source.ledger, source.files, replace(length, max_drop=1.0))


def _copies(measured: Measured, source: SampleSource) -> Copies:
    number, pair = measured.copies()
    if pair is None:
        return Copies(0, "", "")
    of, key = (f"{source.files[measured.file[index]]}:{measured.line[index]}" for index in pair)
    return Copies(number, key, of)


def _endings(measured: Measured, source: SampleSource) -> tuple[Ending, ...]:
    ends = measured.ends.most_common()
    return tuple(Ending(token_id, source.tokenizer.decode([token_id]), samples) for token_id, samples in ends)


def _as_grouped(measured: Measured, seq_length: int) -> tuple[Layout, ...]:
    """The packs that the rows of --pregrouped ask for, if all of them fit."""
    if not len(measured.fitted):
        return ()
    offsets = group_offsets(measured.file, measured.line)
    name, rows = "as grouped", len(offsets) - 1
    tokens = np.diff(running_sum(measured.fitted)[offsets])
    if too_long := int((tokens > seq_length).sum()):
        why = f"{too_long:,} of {rows:,} groups have more than {seq_length:,} tokens, up to {tokens.max():,}"
        return (Layout(name, 0, 0, 0.0, 0.0, note=why),)
    quality = plan_quality(measured.fitted, offsets, seq_length=seq_length)
    return (layout(name, rows, rows * seq_length, int(tokens.sum()), len(measured.losses), quality),)
