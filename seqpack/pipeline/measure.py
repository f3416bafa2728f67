"""One pass over raw data for ``stats``: lengths, copies, and how samples end, without keeping any token."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqpack.core.progress import Progress
from seqpack.core.types import IGNORE_INDEX, TokenizedBatch
from seqpack.io.shards import Shard
from seqpack.options.data import LengthOptions
from seqpack.pipeline.distribute import Advance
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.samples import KeptBatch, SampleSource
from seqpack.text.division import MARKUP, NOTHING_TRAINED

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Measured:
    """``original`` are the lengths of all samples, ``fitted`` of those kept, as they are kept; both int64.

    ``uncut`` are the lengths of what is kept where no sample is too long. ``file`` and ``line`` are the places of the
    kept ones, ``digest`` (uint64) is equal for equal samples that are kept whole, and ``is_whole`` says which those
    are. ``losses`` are samples that are not kept whole, with the tokens lost; ``ends`` counts the last trained token of
    the kept ones. Of ``seen`` rows ``taken`` were used, if not all (then both are 0).
    """

    original: NDArray[np.int64]
    fitted: NDArray[np.int64]
    uncut: NDArray[np.int64]
    file: NDArray[np.int64]
    line: NDArray[np.int64]
    digest: NDArray[np.uint64]
    is_whole: NDArray[np.bool_]
    losses: list[tuple[str, int]]
    ends: Counter[int]
    seen: int
    taken: int

    def copies(self) -> tuple[int, tuple[int, int] | None]:
        """Samples that are copies of earlier ones, and the numbers of the first such pair."""
        whole = np.flatnonzero(self.is_whole)
        _, first, inverse = np.unique(self.digest[whole], return_index=True, return_inverse=True)
        is_copy = np.arange(len(whole)) != first[inverse]
        if not is_copy.any():
            return 0, None
        copy = int(is_copy.argmax())
        return int(is_copy.sum()), (int(whole[first[inverse[copy]]]), int(whole[copy]))


def measure(source: SampleSource, length: LengthOptions, workers: int | None, progress: Progress) -> Measured:
    """Tokenize all rows and measure them; the source's ledger counts them. Errors as ``tokenize`` raises them."""

    def make(mine: SampleSource, shard: Shard, advance: Advance) -> _Part:
        part = _Part()
        sampled = mine.input.sampled
        before = (sampled.seen, sampled.taken) if sampled else (0, 0)
        for batch in mine.tokenize(length, lost=part.lose, shards=[shard]):
            part.add(batch)
            advance(len(batch.tokens))
        if sampled:
            part.seen, part.taken = sampled.seen - before[0], sampled.taken - before[1]
        return part

    parts = source.in_parts(make, workers=workers, progress=progress)
    columns = [np.concatenate([_NONE, *(column for part in parts for column in part.columns[name])]) for name in _NAMES]
    original, fitted, file, line, digest = columns
    dropped = np.array([tokens for part in parts for tokens in part.dropped], np.int64)
    return Measured(
        original=np.concatenate([original, dropped]),
        fitted=fitted,
        uncut=np.concatenate([original, *(np.array(part.too_long, np.int64) for part in parts)]),
        file=file,
        line=line,
        digest=digest.view(np.uint64),
        is_whole=original == fitted,
        losses=[loss for part in parts for loss in part.losses],
        ends=sum((part.ends for part in parts), Counter[int]()),
        seen=sum(part.seen for part in parts),
        taken=sum(part.taken for part in parts),
    )


_NAMES = ("original", "fitted", "file", "line", "digest")


@dataclass(slots=True)
class _Part:
    """What a part of the data comes to, by batches."""

    columns: dict[str, list[NDArray[np.int64]]] = field(default_factory=lambda: {name: [] for name in _NAMES})
    dropped: list[int] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    losses: list[tuple[str, int]] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)
    seen: int = 0
    taken: int = 0

    def add(self, batch: KeptBatch) -> None:
        values = (batch.original_length, batch.tokens.lengths, batch.file, batch.line, digests(batch.tokens))
        for name, column in zip(_NAMES, values, strict=True):
            self.columns[name].append(column)
        self.ends.update(last_trained(batch.tokens))

    def lose(self, loss: Loss) -> None:
        if loss.outcome == "dropped":
            self.dropped.append(loss.tokens)
            if loss.reason != NOTHING_TRAINED:
                self.too_long.append(loss.tokens)
        if loss.outcome in {"dropped", "truncated"} and loss.reason != MARKUP:
            self.losses.append((loss.key, loss.tokens))


def digests(tokens: TokenizedBatch) -> NDArray[np.int64]:
    """64 bits of each sample's ids, int64 ``[samples]``: about a microsecond each."""
    data = np.ascontiguousarray(tokens.input_ids, "<i4").tobytes()
    found = (
        hashlib.blake2b(data[4 * start : 4 * end], digest_size=8).digest()
        for start, end in pairwise(tokens.offsets.tolist())
    )
    return np.frombuffer(b"".join(found), "<i8")


def last_trained(tokens: TokenizedBatch) -> dict[int, int]:
    """How often each id is the last one of a sample that is trained on."""
    places = np.where(tokens.labels != IGNORE_INDEX, np.arange(len(tokens.labels)), -1)
    starts = tokens.offsets[:-1][tokens.lengths > 0]
    if not len(starts):
        return {}
    last = np.maximum.reduceat(places, starts)
    ids, counts = np.unique(tokens.labels[last[last >= 0]], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
