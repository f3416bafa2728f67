"""What travels through the data plane: a sample, its rendered spans, its tokens, and the pack it ends up in.

What is made for every row is a named tuple, the rest frozen dataclasses: a tuple is made in a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from seqpack.core.mask import MaskMode as MaskMode

IGNORE_INDEX = -100
"""The label of a token that is not trained on (the value of ``torch.nn.CrossEntropyLoss(ignore_index=...)``)."""

Role = Literal["system", "user", "assistant", "function", "observation"]
"""Who speaks; ``function`` is a tool call of the assistant (``{"name": ..., "arguments": ...}`` as JSON text, or a list
of such objects), ``observation`` what the tool returned."""

Dialogue = tuple[tuple[Role, ...], tuple[str, ...]]
"""A conversation of which nothing is known but who says what: the roles, and the texts beside them."""

SetKind = Literal["sft", "pretrain", "pairwise", "prompt"]
"""What a data set holds: samples, pretraining text, preference pairs, or prompts for reinforcement learning."""

SET_KINDS: tuple[SetKind, ...] = get_args(SetKind)


class Message(NamedTuple):
    """One turn; ``train`` overrides the template's choice of whether its tokens are trained on."""

    role: Role
    content: str
    train: bool | None = None


class Sample(NamedTuple):
    """A conversation as a handler reads it from one record; ``key`` says where it came from (``file:line``).

    ``tools`` describes the tools the assistant may call, as JSON text of a list, empty if there are none.
    """

    messages: tuple[Message, ...]
    key: str = ""
    tools: str = ""


@dataclass(frozen=True, slots=True)
class TextSample:
    """Pretraining text as a handler reads it from one record: one document for each of the handler's ``text_keys``.

    Documents are tokenized whole, with the special tokens the tokenizer adds by itself, and trained on whole. An empty
    text makes an empty document, so that document ``i`` of every key comes from the same record.
    """

    texts: tuple[str, ...]
    key: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """A conversation with two last replies, of which the first is the better one."""

    chosen: Sample
    rejected: Sample


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for a reply: its last message is a prompt. ``texts`` are further columns of the row."""

    sample: Sample
    texts: tuple[str, ...] = ()


class Span(NamedTuple):
    """A piece of rendered text that is tokenized on its own and is trained on as a whole, or not at all.

    ``content`` is the character range that the data supplied, as opposed to markup of the template: truncation may
    shorten it, and nothing else. ``turn`` numbers the exchange (user and reply) that the span belongs to. ``data`` are
    the ranges whose characters are the data's own, if that is not just ``content``: a tool call is data that must not
    be shortened, the tokens around a thought are markup inside of what may be. ``plain`` text is encoded as if the
    tokenizer had no added tokens.

    An ``elided`` span is an end token that is only written where the sample ends. Elsewhere it leaves no token, but
    what the reply must predict: the token after it is labelled with it, unless that one is trained on itself.
    """

    text: str
    train: bool
    turn: int = 0
    content: tuple[int, int] | None = None
    data: tuple[tuple[int, int], ...] | None = None
    plain: bool = False
    elided: bool = False

    @property
    def data_ranges(self) -> tuple[tuple[int, int], ...]:
        """Where the characters are the data's own."""
        if self.data is not None:
            return self.data
        return (self.content,) if self.content else ()


@dataclass(frozen=True, slots=True)
class TokenizedSample:
    """``input_ids`` and aligned (unshifted) ``labels``, both int32 ``[length]``."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        assert self.input_ids.shape == self.labels.shape and self.input_ids.ndim == 1

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_trained(self) -> int:
        """Targets of the loss: labelled tokens that have a token before them to be predicted from."""
        return int(np.count_nonzero(self.labels[1:] != IGNORE_INDEX))


@dataclass(frozen=True, slots=True)
class TokenizedBatch:
    """Many samples back to back; ``batch[i]`` is sample ``i`` as a view.

    ``input_ids`` and aligned ``labels`` are int32 ``[tokens]``, ``lengths`` int64 ``[samples]``.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert len(self.input_ids) == len(self.labels) == self.lengths.sum()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenizedSample:
        index = range(len(self))[index]  # IndexError beyond the ends, which also ends a loop over the samples
        start, end = self.offsets[index : index + 2].tolist()
        return TokenizedSample(self.input_ids[start:end], self.labels[start:end])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Sample ``i`` is ``offsets[i]:offsets[i + 1]``, int64 ``[samples + 1]``."""
        return running_sum(self.lengths)

    @property
    def num_trained(self) -> NDArray[np.int64]:
        """As ``TokenizedSample.num_trained``, int64 ``[samples]``."""
        is_target = self.labels != IGNORE_INDEX
        offsets = self.offsets
        is_target[offsets[:-1][self.lengths > 0]] = False
        return segment_sums(is_target, offsets, np.int64)

    def replace(self, changes: Mapping[int, Sequence[TokenizedSample]]) -> TokenizedBatch:
        """The same samples, but those in ``changes``: others in their place, any number of them."""
        if not changes:
            return self
        offsets = self.offsets
        parts: list[TokenizedSample] = []
        lengths: list[int] = []
        begin = 0
        for index, samples in sorted(changes.items(), key=lambda change: change[0]):
            parts += [self._between(int(offsets[begin]), int(offsets[index])), *samples]
            lengths += [*self.lengths[begin:index].tolist(), *map(len, samples)]
            begin = index + 1
        parts.append(self._between(int(offsets[begin]), len(self.input_ids)))
        lengths += self.lengths[begin:].tolist()
        return TokenizedBatch(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.array(lengths, np.int64),
        )

    def _between(self, start: int, end: int) -> TokenizedSample:
        return TokenizedSample(self.input_ids[start:end], self.labels[start:end])


def join_samples(samples: Sequence[TokenizedSample]) -> TokenizedBatch:
    """Samples one by one -> back to back."""
    empty = np.zeros(0, np.int32)
    return TokenizedBatch(
        np.concatenate([empty, *(sample.input_ids for sample in samples)]),
        np.concatenate([empty, *(sample.labels for sample in samples)]),
        np.array([len(sample) for sample in samples], np.int64),
    )


def running_sum(values: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """0, then the sum up to each value: int64 ``[values + 1]``."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def segment_sums(
    values: NDArray[Any], offsets: NDArray[np.integer], dtype: type[np.generic] | None = None
) -> NDArray[Any]:
    """Sums of ``values[offsets[i]:offsets[i + 1]]``, 0 where that is empty; offsets begin at 0 and end at the end."""
    sums = np.zeros(len(offsets) - 1, dtype or values.dtype)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        sums[filled] = np.add.reduceat(values, offsets[filled], dtype=dtype)
    return sums


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One row of a data set: samples side by side, then ``num_padding`` padding tokens.

    ``input_ids`` and aligned ``labels`` are int32 ``[length]``; ``cu_seqlens`` int32 starts at 0, strictly rises and
    ends at ``length``, padding (if any) being its last segment. Where samples are aligned, ``real_lengths`` (int32
    ``[samples]``) are their tokens without the padding behind each that aligns the next; else it is None.
    """

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    cu_seqlens: NDArray[np.int32]
    num_padding: int
    real_lengths: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        assert len(self.input_ids) == len(self.labels) == self.cu_seqlens[-1]
        assert self.cu_seqlens[0] == 0 and bool((np.diff(self.cu_seqlens) > 0).all())

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_samples(self) -> int:
        return len(self.cu_seqlens) - 1 - (self.num_padding > 0)

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """False at padding, behind the samples and between them; bool ``[length]``."""
        if self.real_lengths is None:
            return np.arange(len(self)) < len(self) - self.num_padding
        lengths = np.zeros(len(self.cu_seqlens) - 1, np.int64)
        lengths[: self.num_samples] = self.real_lengths
        taken = np.diff(self.cu_seqlens)
        within = np.arange(len(self)) - np.repeat(self.cu_seqlens[:-1], taken)
        real: NDArray[np.bool_] = within < np.repeat(lengths, taken)
        return real
