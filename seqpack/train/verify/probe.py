"""The model of a run, asked for what the checks need: last hidden states of all tokens, and gradients of a step.

Everything goes the way training goes (``evaluate``, ``accumulate_gradients``), so a layout of several processes that
training supports is covered by the checks without their knowing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.core.types import PackedSequence
from seqpack.train.data import TrainData
from seqpack.train.loader import BatchReader, Step
from seqpack.train.loop import Trainer, accumulate_gradients, evaluate
from seqpack.train.sharding import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.attention.contract import VarlenAttention
    from seqpack.models.packed import HeadLoss
    from seqpack.runtime.batch import Batch
    from seqpack.train.verify.expected import Expected


@dataclass(frozen=True, slots=True)
class Hidden:
    """Last hidden states ``[L, D]`` of the tokens numbered ``token`` (int64 ``[L]``): those this rank has."""

    token: NDArray[np.int64]
    state: torch.Tensor


class HeadObserver:
    """Stands where the loss is computed: keeps the hidden states that arrive there while ``watching``.

    The labels of such a pass are numbers of tokens, so it does not matter how a layout deals tokens out to ranks.
    """

    def __init__(self) -> None:
        self._head_loss: HeadLoss | None = None
        self.watching = False
        self.seen: Hidden | None = None

    def around(self, head_loss: HeadLoss) -> HeadLoss:
        """The loss of the run, until something is watched."""
        self._head_loss = head_loss
        return self

    def __call__(
        self,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_T: torch.Tensor,
        loss_weights_T: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert self._head_loss is not None
        if not self.watching:
            return self._head_loss(hidden_TD, weight_VD, labels_T, loss_weights_T)
        labelled = labels_T >= 0
        if bool(labelled.any()):  # none has a label in what fills a step up
            self.seen = Hidden(labels_T[labelled].cpu().numpy() - 1, hidden_TD[labelled].detach())
        return hidden_TD.new_zeros(())


class AttentionObserver:
    """Attention that notes the boundaries it is given, ``(queries, keys)`` of every call."""

    def __init__(self, attention: VarlenAttention) -> None:
        self._attention = attention
        self.boundaries: list[tuple[list[int], list[int]]] = []

    def __call__(
        self,
        q_1NTH: torch.Tensor,
        k_1KSH: torch.Tensor,
        v_1KSH: torch.Tensor,
        *,
        cu_q: NDArray[np.int32],
        cu_k: NDArray[np.int32],
        scale: float,
        window: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.boundaries.append((cu_q.tolist(), cu_k.tolist()))
        return self._attention(q_1NTH, k_1KSH, v_1KSH, cu_q=cu_q, cu_k=cu_k, scale=scale, window=window)


@dataclass(frozen=True, slots=True)
class StagedData(TrainData):
    """The data of a run, of which the rows that are read are those on ``stage``."""

    stage: list[PackedSequence] = field(default_factory=list)

    @classmethod
    def of(cls, data: TrainData) -> StagedData:
        return cls(**{own.name: getattr(data, own.name) for own in fields(data)})

    def __getitem__(self, row: int) -> PackedSequence:
        return self.stage[row]


@dataclass(frozen=True, slots=True)
class Probe:
    """All ranks call every method, in the same order and with the same rows.

    ``trainer`` and ``reader`` read from ``data``; ``heads`` and ``attention`` are in the model of ``trainer``, which
    knows ``vocab_size`` tokens.
    """

    trainer: Trainer
    reader: BatchReader
    data: StagedData
    vocab_size: int
    heads: HeadObserver
    attention: AttentionObserver

    def batch(self, rows: Sequence[PackedSequence]) -> Batch:
        """The micro-batch of these rows as training reads it, before several ranks share it."""
        self.data.stage[:] = rows
        return self.reader(np.arange(len(rows)))

    def hidden(self, expected: Expected, changed: NDArray[np.integer] = np.zeros(0, int)) -> Hidden:  # noqa: B008
        """Last hidden states of a micro-batch; with other ids at the tokens ``changed``.

        The last token of each sample predicts nothing and is not seen.
        """
        rows = list(_numbered(expected, changed, self.vocab_size))
        batch = self.batch(rows)
        # The same for every share of a step: a fault may be on one rank.
        shares = self.trainer.share.size
        step = Step(0, (np.arange(len(rows)),) * shares, batch.num_targets, batch.loss_units)
        self.heads.watching, self.heads.seen = True, None
        self.attention.boundaries.clear()
        try:
            evaluate(self.trainer, [step])
        finally:
            self.heads.watching = False
        return self.heads.seen or Hidden(np.zeros(0, np.int64), torch.zeros(0, 0))  # a rank without the output layer

    def gradients(self, micro_batches: Sequence[Expected]) -> tuple[float, Iterator[tuple[str, torch.Tensor]]]:
        """Mean loss of one step over these micro-batches, and the whole gradient of each parameter this rank has."""
        model = self.trainer.model
        for parameter in model.parameters():
            parameter.grad = None
        rows = [row for expected in micro_batches for row in expected.rows]
        starts = np.cumsum([0, *(len(expected.rows) for expected in micro_batches)])
        batches = [self.batch(expected.rows) for expected in micro_batches]
        step = Step(
            0,
            tuple(np.arange(*ends) for ends in pairwise(starts.tolist())),
            sum(batch.num_targets for batch in batches),
            sum(batch.loss_units for batch in batches),
        )
        self.data.stage[:] = rows
        trainer, device = self.trainer, self.trainer.backend.device
        part, _, _ = accumulate_gradients(model, step, trainer.read_batch, device, trainer.share)
        (loss,) = trainer.ranks.sum([part.item()], device)
        named = ((name.removeprefix("model."), weight) for name, weight in model.named_parameters())
        return loss, ((name, whole(weight.grad)) for name, weight in named if weight.grad is not None)


def _numbered(expected: Expected, changed: NDArray[np.integer], vocab_size: int) -> Iterator[PackedSequence]:
    """The rows with the number of each token, from 1, as its *next* label, and other ids at ``changed``."""
    input_ids = expected.input_ids.copy()
    input_ids[changed] = (input_ids[changed] + 1) % vocab_size
    begin = 0
    for row in expected.rows:
        end = begin + len(row)
        labels = np.arange(begin, end).astype(np.int32)  # shifted by one when a batch is built
        yield replace(row, input_ids=input_ids[begin:end].astype(np.int32), labels=labels)
        begin = end
