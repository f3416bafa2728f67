"""Spans to ids and labels, many samples per call of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import IGNORE_INDEX, Span, TokenizedBatch, TokenizedSample, running_sum
from seqpack.text.layout import Filled, Layout, Rendered, Spelled
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import FlatIds


class FlatEncoder(Protocol):
    """An engine, or a ``Tokenizer``."""

    def encode_flat(self, texts: Sequence[str]) -> FlatIds: ...
    def borders(self, text: str) -> tuple[int, int]: ...


def encode(
    engine: FlatEncoder, samples: Sequence[Sequence[Span]], control: ControlText | None = None
) -> TokenizedBatch:
    """Tokenize samples given as spans; see ``SampleEncoder``."""
    return SampleEncoder(engine, control).encode([list(spans) for spans in samples])


class SampleEncoder:
    """Tokenizes rendered samples, a batch with one call of the engine.

    Each span is encoded on its own, so that no token reaches over its border. Fixed text of a layout is encoded once.
    ``control`` encodes the spans that are ``plain``, of which there are none without ``ControlText.guard``.
    """

    def __init__(self, engine: FlatEncoder, control: ControlText | None = None) -> None:
        self._engine = engine
        self._control = control
        self._fixed: list[NDArray[np.int32]] = []
        self._numbers: dict[str, int] = {}
        self._tables: dict[Layout, tuple[NDArray[np.int32], list[tuple[str, int, str]]]] = {}

    @property
    def engine(self) -> FlatEncoder:
        """Who encodes."""
        return self._engine

    def encode(self, batch: Sequence[Rendered | Sequence[Span]]) -> TokenizedBatch:
        """Ids and labels of samples that are rendered, or come as spans."""
        texts: list[str] = []
        tables: list[NDArray[np.int32]] = []
        plain: list[NDArray[np.int32]] = []
        for sample in batch:
            if isinstance(sample, Filled):
                layout, contents = sample
                known = self._tables.get(layout)
                table, data = self._table(layout) if known is None else known
                tables.append(table)
                texts += [f"{head}{contents[number]}{tail}" for head, number, tail in data]
            else:
                spans = sample.spans if isinstance(sample, Spelled) else sample
                tables.append(self._span_table(spans, texts, plain))
        return _assemble(*self._engine.encode_flat(texts), tables, self._fixed, plain)

    def encode_spans(self, samples: Sequence[Sequence[Span]]) -> list[list[list[int]]]:
        """Ids of each span of each sample, elided ones too."""
        spans = [span for sample in samples for span in sample]
        input_ids, offsets = self._engine.encode_flat([span.text for span in spans])
        ids, places = input_ids.tolist(), pairwise(offsets.tolist())
        encoded = iter([ids[start:end] for start, end in places])
        return [[next(encoded) for _ in sample] for sample in samples]

    def _table(self, layout: Layout) -> tuple[NDArray[np.int32], list[tuple[str, int, str]]]:
        """A layout's table, and its texts to encode: (text before, message, text behind).

        What is fixed is taken off these texts, up to where they can be cut (see ``Tokenizer.borders``).
        """
        rows: list[tuple[int, bool, int]] = []
        data: list[tuple[str, int, str]] = []
        for slot in layout.slots:
            end = int(self._fixed[self._number(slot.end)][0]) if slot.end else _NO_END
            if slot.message is None:
                rows.append((self._number(slot.text), slot.train, end))
                continue
            begin, stop = self._engine.borders(slot.text)[1], self._engine.borders(slot.tail)[0]
            if begin:
                rows.append((self._number(slot.text[:begin]), slot.train, end))
                end = _NO_END
            rows.append((_NEXT_TEXT, slot.train, end))
            data.append((slot.text[begin:], slot.message, slot.tail[:stop]))
            if stop < len(slot.tail):
                rows.append((self._number(slot.tail[stop:]), slot.train, _NO_END))
        self._tables[layout] = np.array(rows, np.int32).reshape(-1, 3), data
        return self._tables[layout]

    def _number(self, text: str) -> int:
        """The place of a fixed text's ids."""
        if text not in self._numbers:
            self._fixed.append(self._engine.encode_flat([text])[0])
            self._numbers[text] = len(self._fixed) - 1
        return self._numbers[text]

    def _span_table(self, spans: Sequence[Span], texts: list[str], plain: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        """The table of one sample; what is to be encoded goes to ``texts``, ids of plain spans to ``plain``."""
        rows: list[tuple[int, bool, int]] = []
        end = _NO_END
        for index, span in enumerate(spans):
            if span.elided and index < len(spans) - 1:
                end = int(self._engine.encode_flat([span.text])[0][0]) if span.train else _NO_END
                continue
            if span.plain:
                assert self._control is not None
                plain.append(_int32(self._control.encode(span.text)))
                rows.append((_FIRST_PLAIN - len(plain) + 1, span.train, end))
            else:
                texts.append(span.text)
                rows.append((_NEXT_TEXT, span.train, end))
            end = _NO_END
        return np.array(rows, np.int32).reshape(-1, 3)


_NEXT_TEXT = -1
_FIRST_PLAIN = -2
_NO_END = -1


def _assemble(
    input_ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    tables: list[NDArray[np.int32]],
    fixed: list[NDArray[np.int32]],
    plain: list[NDArray[np.int32]],
) -> TokenizedBatch:
    """Ids of all encoded texts, fixed ones and plain ones in their order, with labels.

    A table has a line for each piece of a sample: the number of its fixed ids, ``_NEXT_TEXT``, or a number from
    ``_FIRST_PLAIN`` downwards; whether it is trained on; the end token its first token is labelled with or ``_NO_END``.
    """
    fixed = [*fixed, *plain]
    counts = np.fromiter(map(len, tables), np.int64, len(tables))
    source, is_trained, end = np.concatenate([np.zeros((0, 3), np.int32), *tables]).T
    is_fixed = source != _NEXT_TEXT
    source = np.where(source > _FIRST_PLAIN, source, len(fixed) - len(plain) + _FIRST_PLAIN - source)
    fixed_lengths = np.fromiter(map(len, fixed), np.int64, len(fixed))
    lengths = np.empty(len(source), np.int64)
    lengths[~is_fixed] = np.diff(offsets)
    lengths[is_fixed] = fixed_lengths[source[is_fixed]]
    if is_fixed.any():
        is_from_fixed = np.repeat(is_fixed, lengths)
        encoded, input_ids = input_ids, np.empty(len(is_from_fixed), np.int32)
        input_ids[~is_from_fixed] = encoded
        input_ids[is_from_fixed] = np.concatenate([fixed[number] for number in source[is_fixed].tolist()])
    labels = np.where(np.repeat(is_trained.astype(np.bool_), lengths), input_ids, np.int32(IGNORE_INDEX))
    starts = running_sum(lengths)
    borders = starts[running_sum(counts)]
    if (has_end := end != _NO_END).any():
        places = starts[:-1][has_end]
        last = np.repeat(borders[1:], counts)[has_end]
        is_open = (places < last) & (labels[np.minimum(places, len(labels) - 1)] == IGNORE_INDEX)
        labels[places[is_open]] = end[has_end][is_open]
    return TokenizedBatch(input_ids, labels, np.diff(borders))


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
