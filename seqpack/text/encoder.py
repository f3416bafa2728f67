"""Spans to ids and labels, many samples per call of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import IGNORE_INDEX, Span, TokenizedBatch, TokenizedSample, join_samples, running_sum
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import FlatIds


class FlatEncoder(Protocol):
    """An engine, or a ``Tokenizer``."""

    def encode_flat(self, texts: Sequence[str]) -> FlatIds: ...


def encode(
    engine: FlatEncoder, samples: Sequence[Sequence[Span]], control: ControlText | None = None
) -> TokenizedBatch:
    """Tokenize rendered samples. Each span is encoded on its own, so that no token reaches over its border.

    ``control`` encodes the spans that are ``plain``, of which there are none without ``ControlText.guard``.
    """
    spans = list(chain.from_iterable(samples))
    input_ids, offsets = engine.encode_flat([span.text for span in spans])
    if any(span.plain or span.elided for span in spans):
        return _encode_odd(samples, input_ids, offsets, control)
    is_trained = np.fromiter((span.train for span in spans), np.bool_, len(spans))
    labels = np.where(np.repeat(is_trained, np.diff(offsets)), input_ids, np.int32(IGNORE_INDEX))
    ends = offsets[running_sum(np.fromiter(map(len, samples), np.int64, len(samples)))]
    return TokenizedBatch(input_ids, labels, np.diff(ends))


def encode_spans(
    engine: FlatEncoder, samples: Sequence[Sequence[Span]], control: ControlText | None = None
) -> list[list[list[int]]]:
    """Ids of each span of each sample."""
    input_ids, offsets = engine.encode_flat([span.text for spans in samples for span in spans])
    return list(_by_span(samples, input_ids, offsets, control))


def _encode_odd(
    samples: Sequence[Sequence[Span]],
    input_ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    control: ControlText | None,
) -> TokenizedBatch:
    """Samples some of whose spans are not simply the ids of their text, one by one."""
    by_span = _by_span(samples, input_ids, offsets, control)
    return join_samples(
        [join_spans(list(zip(spans, ids, strict=True))) for spans, ids in zip(samples, by_span, strict=True)]
    )


def _by_span(
    samples: Sequence[Sequence[Span]],
    input_ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    control: ControlText | None,
) -> Iterator[list[list[int]]]:
    ids, places = input_ids.tolist(), iter(pairwise(offsets.tolist()))
    for spans in samples:
        encoded = [ids[start:end] for start, end in (next(places) for _ in spans)]
        for index, span in enumerate(spans):
            if span.plain:
                assert control is not None
                encoded[index] = control.encode(span.text)
        yield encoded


def with_end(sample: TokenizedSample, end_token_id: int) -> TokenizedSample:
    """The sample with the end token behind it, trained on; the sample itself if that is how it ends already."""
    if len(sample) and sample.input_ids[-1] == end_token_id:
        return sample
    end = np.array([end_token_id], np.int32)
    return TokenizedSample(np.concatenate([sample.input_ids, end]), np.concatenate([sample.labels, end]))


def with_ends(batch: TokenizedBatch, end_token_id: int) -> tuple[TokenizedBatch, int]:
    """``with_end`` for every sample with something to train on, and how many of those ended that way already."""
    ends = batch.offsets[1:]
    is_trained = batch.num_trained > 0
    is_ended = np.zeros(len(batch), np.bool_)
    is_ended[is_trained] = batch.input_ids[ends[is_trained] - 1] == end_token_id
    is_open = is_trained & ~is_ended
    return (
        TokenizedBatch(
            np.insert(batch.input_ids, ends[is_open], end_token_id),
            np.insert(batch.labels, ends[is_open], end_token_id),
            batch.lengths + is_open,
        ),
        int(is_ended.sum()),
    )


def join_spans(spans: Sequence[tuple[Span, list[int]]]) -> TokenizedSample:
    """Spans with their ids, one after the other."""
    input_ids: list[int] = []
    labels: list[int] = []
    end: int | None = None
    for index, (span, ids) in enumerate(spans):
        if span.elided and index < len(spans) - 1:
            end = ids[0] if span.train and ids else None
            continue
        input_ids += ids
        labels += ids if span.train else [IGNORE_INDEX] * len(ids)
        if end is not None and ids:
            if not span.train:
                labels[-len(ids)] = end
            end = None
    return TokenizedSample(_int32(input_ids), _int32(labels))


def _int32(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)
