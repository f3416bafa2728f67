"""``seqpack stats``: how long the samples are, and what every layout would cost, before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, Say, no_progress, say_nothing
from seqpack.hooks.host import plugin_host
from seqpack.io.shards import Shard
from seqpack.options.data import InputOptions, LengthOptions, TextOptions
from seqpack.packing.planning import make_plan
from seqpack.pipeline.distribute import distribute
from seqpack.pipeline.inputs import resolve_input
from seqpack.pipeline.samples import Loss, SampleSource
from seqpack.text.labels import Finding

QUANTILES = (0.5, 0.9, 0.95, 0.99)
PADDED_BATCH = 8
_NONE = np.zeros(0, np.int64)
KEPT_TOKENS = 0.999
"""A suggested length cuts at most one token in a thousand."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Samples of ``low`` to ``high`` tokens, both included; ``share`` counts them and all shorter ones."""

    low: int
    high: int
    samples: int
    share: float


@dataclass(frozen=True, slots=True)
class Layout:
    """What one layout of the samples takes for an epoch: ``elements`` tokens, of which the share ``fill`` is real."""

    name: str
    rows: int
    elements: int
    fill: float
    versus_best: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Lengths are of whole samples; ledger and layouts are for ``seq_length``, as ``preprocess`` would make them."""

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
    histogram: tuple[Bucket, ...]
    layouts: tuple[Layout, ...]
    fewest_rows: int
    longest: tuple[tuple[str, int], ...]
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
    workers: int | None = None,
    progress: Progress = no_progress,
    say: Say = say_nothing,
) -> Stats:
    """Tokenize the data and measure; writes nothing. Errors as ``preprocess`` raises them, up to planning.

    Without ``--seq-length`` the smallest power of two that keeps 99.9 % of the tokens is taken, or all of them where a
    longer sample would be dropped or an error.
    """
    found = resolve_input(input, say=say)
    if found.text_keys:
        raise ConfigError(
            "SP132",
            f"handler {found.handler!r} gives pretraining text; stats measures conversations only",
            help="choose the --handler of a conversation, if the data are that",
        )
    source = SampleSource.open(found, text)
    engine = source.choose_engine(text.tokenizer_engine)
    original, kept, losses = _measure(source, length, workers, progress)
    source.check_loss(dataclasses.replace(length, max_drop=1.0))
    seq_length = length.seq_length
    if seq_length is None:
        seq_length = suggest_length(original, kept=KEPT_TOKENS if length.on_overlong == "truncate" else 1.0)
        # once more, now that the length is known: the forecast must be what preprocess makes
        source = source.uncounted()
        _, kept, losses = _measure(source, dataclasses.replace(length, seq_length=seq_length), workers, progress)
    quantiles = np.quantile(original, QUANTILES, method="inverted_cdf")
    return Stats(
        files=tuple(map(str, source.files)),
        engine=engine.label,
        engine_refused=engine.refused,
        handler=source.recipe["handler"],
        prompt_type=source.recipe["prompt_type"],
        seq_length=seq_length,
        seq_length_was_given=length.seq_length is not None,
        ledger=source.ledger,
        num_tokens=int(original.sum()),
        mean=float(original.mean()),
        quantiles={f"p{quantile * 100:g}": int(value) for quantile, value in zip(QUANTILES, quantiles, strict=True)},
        minimum=int(original.min()),
        maximum=int(original.max()),
        histogram=histogram(original),
        layouts=layouts(kept, seq_length=seq_length, seed=seed),
        fewest_rows=-(-int(kept.sum()) // seq_length),
        longest=tuple(sorted(losses, key=lambda loss: -loss[1])[:3]),
        note=source.note,
        findings=tuple(source.findings()),
    )


def suggest_length(lengths: NDArray[np.int64], *, kept: float = KEPT_TOKENS) -> int:
    """The smallest power of two such that cutting there keeps at least the share ``kept`` of the tokens."""
    total, length = lengths.sum(), 2
    while np.minimum(lengths, length).sum() < kept * total:
        length *= 2
    return length


def histogram(lengths: NDArray[np.int64]) -> tuple[Bucket, ...]:
    """Buckets that grow by the square root of two, from the shortest sample to the longest."""
    powers = np.arange(0, 2 * np.log2(max(int(lengths.max()), 2)) + 2)
    edges = np.unique(np.rint(2 ** (powers / 2)).astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    shares = np.cumsum(counts) / len(lengths)
    rows = zip(edges[:-1].tolist(), (edges[1:] - 1).tolist(), counts.tolist(), shares.tolist(), strict=True)
    used = np.flatnonzero(counts)
    return tuple(Bucket(*row) for row in list(rows)[used[0] : used[-1] + 1])


def layouts(lengths: NDArray[np.int64], *, seq_length: int, seed: int) -> tuple[Layout, ...]:
    """Padding to the length, padding to the longest of a batch, and every packing strategy there is."""
    batches = np.arange(0, len(lengths), PADDED_BATCH)
    longest = np.maximum.reduceat(lengths, batches)
    sizes = np.diff(np.append(batches, len(lengths)))
    found = [
        (f"pad to {seq_length:,}", len(lengths), len(lengths) * seq_length),
        (f"pad to longest of {PADDED_BATCH}", len(lengths), int((longest * sizes).sum())),
    ]
    for strategy in plugin_host().strategies:
        if getattr(strategy.load(), "is_slow", False):
            continue
        rows = len(make_plan(strategy, lengths, seq_length=seq_length, seed=seed))
        found.append((f"pack, {strategy.name}", rows, rows * seq_length))
    total, best = int(lengths.sum()), min(elements for _, _, elements in found)
    return tuple(Layout(name, rows, elements, total / elements, elements / best) for name, rows, elements in found)


def _measure(
    source: SampleSource, length: LengthOptions, workers: int | None, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[str, int]]]:
    """Original lengths of all samples, lengths of those kept, and the samples that are not kept whole."""

    def part(source: SampleSource, number: int, shards: Iterable[Shard], advance: Callable[[int], None]) -> _Measured:
        measured = _Measured()
        for batch in source.tokenize(length, lost=_remember(measured.dropped, measured.losses), shards=shards):
            measured.original.append(batch.original_length)
            measured.fitted.append(batch.tokens.lengths)
            advance(len(batch.tokens))
        return measured

    parts = list(distribute(source, part, workers=workers, progress=progress))
    original = [lengths for part in parts for lengths in part.original]
    dropped = np.array([length for part in parts for length in part.dropped], np.int64)
    fitted = [lengths for part in parts for lengths in part.fitted]
    losses = [loss for part in parts for loss in part.losses]
    return np.concatenate([*original, dropped]), np.concatenate([_NONE, *fitted]), losses


@dataclass(frozen=True, slots=True)
class _Measured:
    """Lengths of a part of the data, whole and as kept, by batches; those dropped; and who is not kept whole."""

    original: list[NDArray[np.int64]] = field(default_factory=list)
    fitted: list[NDArray[np.int64]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    losses: list[tuple[str, int]] = field(default_factory=list)


def _remember(dropped: list[int], losses: list[tuple[str, int]]) -> Callable[[Loss], None]:
    def remember(loss: Loss) -> None:
        if loss.outcome == "dropped":
            dropped.append(loss.tokens)
        if loss.outcome in {"dropped", "truncated"}:
            losses.append((loss.key, loss.tokens))

    return remember
