"""``seqpack stats``: how long the samples are, and what every layout would cost, before anything is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.core.types import running_sum
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.pipeline.describe import (
    Bucket,
    describe,
    histogram,
    mean_error,
    quantile_ranges,
    quantiles,
)
from seqpack.pipeline.inputs import resolve_input
from seqpack.pipeline.layouts import (
    KEPT_TOKENS,
    Candidate,
    Layout,
    attended_share,
    candidates,
    layout,
    layouts,
    plan_quality,
    suggest_length,
)
from seqpack.pipeline.measure import Measured, measure
from seqpack.pipeline.pregrouped import group_offsets
from seqpack.pipeline.row_sample import RowSample
from seqpack.pipeline.samples import SampleSource
from seqpack.text.labels import Finding

BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Sampled:
    """Only ``taken`` of ``seen`` rows were measured; layouts are scaled up, and these are the errors of the rest.

    ``num_tokens`` is the estimate for all rows, ``tokens_error`` and ``mean_error`` are standard errors;
    ``quantile_ranges`` reach from one standard error below to one above each quantile.
    """

    share: float
    seed: int
    taken: int
    seen: int
    num_tokens: int
    tokens_error: int
    mean_error: float
    quantile_ranges: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Copies:
    """``number`` samples have the ids of an earlier one; the first is ``key``, a copy of ``of``."""

    number: int
    key: str
    of: str


@dataclass(frozen=True, slots=True)
class Ending:
    """``samples`` samples end their training on the token ``token_id``."""

    token_id: int
    text: str
    samples: int


@dataclass(frozen=True, slots=True)
class Steps:
    """Optimizer steps of an epoch at ``batch_size`` rows each: one sample per row, and packed in the fewest rows."""

    batch_size: int
    unpacked: int
    packed: int
    samples_per_packed_step: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Lengths are of whole samples; ledger and layouts are for ``seq_length``, as ``preprocess`` would make them.

    ``copies`` and ``endings`` are None where they were not looked for (in a set that exists).
    """

    files: tuple[str, ...]
    engine: str
    engine_refused: str
    handler: str
    prompt_type: str
    seq_length: int
    seq_length_was_given: bool
    ledger: Ledger
    num_tokens: int
    mean: float
    quantiles: dict[str, int]
    minimum: int
    maximum: int
    describe: dict[str, float]
    histogram: tuple[Bucket, ...]
    layouts: tuple[Layout, ...]
    fewest_rows: int
    attended_share: float
    steps: Steps
    candidates: tuple[Candidate, ...]
    longest: tuple[tuple[str, int], ...]
    copies: Copies | None = None
    endings: tuple[Ending, ...] | None = None
    sampled: Sampled | None = None
    source: str = "raw files"
    note: str = ""
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


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
    if found.text_keys:
        raise ConfigError(
            "SP132",
            f"handler {found.handler!r} gives pretraining text; stats measures conversations only",
            help="choose the --handler of a conversation, if the data are that; a set that preprocess made of the text "
            "can be measured",
        )
    if share < 1:
        found = replace(found, sampled=RowSample(share, seed))
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
        sampled=_sampled(measured, original, found.sampled),
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
            scale=measured.seen / measured.taken if measured.taken else 1.0,
            first=_as_grouped(measured, seq_length) if found.pregrouped else (),
        ),
    )


def forecast(
    original: NDArray[np.int64],
    fitted: NDArray[np.int64],
    *,
    seq_length: int,
    was_given: bool,
    seed: int,
    batch_size: int,
    cut: int,
    scale: float = 1.0,
    first: tuple[Layout, ...] = (),
) -> dict[str, Any]:
    """The fields of ``Stats`` that follow from lengths: of all samples, and of those kept as they are kept.

    Layouts count ``scale`` times as many rows as there are.
    """
    found = layouts(fitted, seq_length=seq_length, seed=seed, cut=cut, first=first)
    packed = [each.rows for each in found[len(first) :] if each.quality is not None]
    fewest = min(packed, default=len(fitted))
    rows = round(fewest * scale)
    samples = round(len(fitted) * scale)
    return {
        "seq_length": seq_length,
        "seq_length_was_given": was_given,
        "num_tokens": int(original.sum()),
        "mean": float(original.mean()),
        "quantiles": quantiles(original),
        "minimum": int(original.min()),
        "maximum": int(original.max()),
        "describe": describe(original),
        "histogram": histogram(original),
        "layouts": tuple(_scaled(each, scale) for each in found),
        "fewest_rows": round(-(-int(fitted.sum()) // seq_length) * scale),
        "attended_share": attended_share(fitted, fewest, seq_length=seq_length),
        "steps": Steps(batch_size, -(-samples // batch_size), -(-rows // batch_size), batch_size * samples / rows),
        "candidates": candidates(original, seed=seed),
    }


def _check_taken(measured: Measured, source: SampleSource, length: LengthOptions) -> None:
    if measured.seen and not measured.taken:
        raise ConfigError(
            "SP001", f"--sample takes none of {measured.seen:,} rows", help="take a larger part, or another --seed"
        )
    source.check_loss(replace(length, max_drop=1.0))


def _scaled(each: Layout, scale: float) -> Layout:
    if scale == 1:
        return each
    rows, elements, cut = (round(number * scale) for number in (each.rows, each.elements, each.cut_samples))
    return replace(each, rows=rows, elements=elements, cut_samples=cut)


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


def _sampled(measured: Measured, original: NDArray[np.int64], sampled: RowSample | None) -> Sampled | None:
    if sampled is None:
        return None
    out_of = round(len(original) * measured.seen / measured.taken)
    error = mean_error(original, out_of=out_of)
    return Sampled(
        share=sampled.share,
        seed=sampled.seed,
        taken=measured.taken,
        seen=measured.seen,
        num_tokens=round(float(original.mean()) * out_of),
        tokens_error=round(error * out_of) if np.isfinite(error) else out_of,
        mean_error=error if np.isfinite(error) else float(original.mean()),
        quantile_ranges=quantile_ranges(original, out_of=out_of),
    )
