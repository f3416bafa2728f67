"""Rows of a data set -> what one pass through the model takes.

All rows of a micro-batch lie side by side in one row of T tokens; attention keeps them apart by their boundaries, so
rows of different length cost no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from seqpack.core.segments import Segments, cu_seqlens_from_lengths, position_ids, shift_labels
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

LossReduction = Literal["token", "sample", "pack"]
"""What counts the same in the loss: every trained token, every sample, or every pack; the last two take means first."""


class SharedRows(Protocol):
    """The rows of a batch that several ranks share, each holding some of its tokens.

    Shapes: T tokens that this rank holds, N query heads, K key heads, H head size.
    """

    @property
    def whole(self) -> Batch:
        """The batch of all of them."""

    def attend(
        self, q_1NTH: torch.Tensor, k_1KTH: torch.Tensor, v_1KTH: torch.Tensor, *, scale: float, window: int | None
    ) -> torch.Tensor:
        """Attention of this rank's tokens to those of all ranks, ``[1, T, N, H]``; the ranks call it together."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Added up over the ranks, without a gradient."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: int64 tensors ``[1, T]``; the boundaries stay on the host.

    ``labels`` are those of the *next* token, shifted inside samples. ``segments`` are what attention keeps apart: the
    samples, or whole packs where samples of a pack may see each other; padding at the end is a segment of its own.
    ``is_real`` (bool ``[1, T]``) is false at padding, also at that which aligns samples.
    ``loss_weights`` (float64 ``[1, T]``) are 1 / trained tokens of the sample or pack of a token, or None where every
    token counts the same; they add up to ``loss_units``, the tokens, samples or packs that the loss sums over.
    ``num_tokens`` counts real tokens, ``num_targets`` those that enter the loss.

    If ranks share the rows, ``shared`` has the rest: tensors and ``segments`` are of the tokens this rank holds, the
    counts are of all ranks together.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    is_real: torch.Tensor
    loss_weights: torch.Tensor | None
    segments: Segments
    loss_units: int
    num_targets: int
    num_tokens: int
    num_padding: int
    shared: SharedRows | None = None

    def without_labels(self) -> Batch:
        """The same work for a rank that has no rows left; nothing of it counts."""
        return replace(
            self,
            labels=torch.full_like(self.labels, IGNORE_INDEX),
            loss_weights=None,
            loss_units=0,
            num_targets=0,
            num_tokens=0,
            num_padding=0,
        )

    def padded(self, length: int) -> Batch:
        """The batch with padding at its end, a segment of its own, so that it has ``length`` tokens.

        That of a batch ``without_labels`` counts as little as the rest of it.
        """
        missing = length - self.input_ids.shape[1]
        assert missing >= 0, f"a batch of {self.input_ids.shape[1]} tokens cannot be padded to {length}"
        if missing == 0:
            return self
        extend = partial(torch.nn.functional.pad, pad=(0, missing))
        return replace(
            self,
            input_ids=extend(self.input_ids),
            labels=extend(self.labels, value=IGNORE_INDEX),
            position_ids=torch.cat([self.position_ids, torch.arange(missing)[None]], dim=1),
            is_real=extend(self.is_real, value=False),
            loss_weights=None if self.loss_weights is None else extend(self.loss_weights),
            segments=replace(self.segments, cu_seqlens=np.append(self.segments.cu_seqlens, np.int32(length))),
            num_padding=self.num_padding + missing if self.num_tokens else 0,
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``; an NPU has no float64, so weights are float32 there."""
        weights = self.loss_weights
        if weights is not None:
            weights = weights.to(device, torch.float32 if device.type == "npu" else weights.dtype)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            position_ids=self.position_ids.to(device),
            is_real=self.is_real.to(device),
            loss_weights=weights,
        )


def collate(
    rows: Sequence[PackedSequence],
    mask: MaskMode,
    *,
    pad_to: int | None = None,
    pad_token_id: int = 0,
    reduction: LossReduction = "token",
) -> Batch:
    """Lay rows side by side; ``pad_to`` first extends each row to that many tokens (only to compare with padding)."""
    rows = [row if pad_to is None else pad_row(row, pad_to, pad_token_id) for row in rows]
    labels = np.concatenate([shift_labels(row.labels, row.cu_seqlens) for row in rows])
    trained = labels != IGNORE_INDEX
    weights, loss_units = _loss_weights(rows, trained, reduction)
    cu_seqlens = cu_seqlens_from_lengths(np.concatenate([_attended_lengths(row, mask) for row in rows]))
    is_real = np.concatenate([row.is_real for row in rows])
    num_tokens = int(np.count_nonzero(is_real))
    return Batch(
        input_ids=_tensor(np.concatenate([row.input_ids for row in rows])),
        labels=_tensor(labels),
        position_ids=_tensor(position_ids(cu_seqlens)),
        is_real=torch.from_numpy(is_real)[None],
        loss_weights=weights,
        segments=Segments(cu_seqlens),
        loss_units=loss_units,
        num_targets=int(np.count_nonzero(trained)),
        num_tokens=num_tokens,
        num_padding=len(labels) - num_tokens,
    )


def pad_row(row: PackedSequence, length: int, pad_token_id: int) -> PackedSequence:
    """The row extended to ``length`` tokens by padding that is not trained on."""
    missing = length - len(row)
    assert missing >= 0, f"a row of {len(row)} tokens cannot be padded to {length}"
    if missing == 0:
        return row
    cu_seqlens = row.cu_seqlens[:-1] if row.num_padding else row.cu_seqlens
    return replace(
        row,
        input_ids=np.concatenate([row.input_ids, np.full(missing, pad_token_id, np.int32)]),
        labels=np.concatenate([row.labels, np.full(missing, IGNORE_INDEX, np.int32)]),
        cu_seqlens=np.append(cu_seqlens, np.int32(length)),
        num_padding=row.num_padding + missing,
    )


def _loss_weights(
    rows: Sequence[PackedSequence], trained: NDArray[np.bool_], reduction: LossReduction
) -> tuple[torch.Tensor | None, int]:
    """Weight of every token in the loss (None: all 1) and what the weights of trained tokens add up to."""
    if reduction == "token":
        return None, int(np.count_nonzero(trained))
    lengths = [np.array([len(row)]) if reduction == "pack" else np.diff(row.cu_seqlens) for row in rows]
    group_T = np.repeat(np.arange(sum(map(len, lengths))), np.concatenate(lengths))
    counts = np.bincount(group_T, weights=trained)
    weights_T = trained / np.maximum(counts, 1)[group_T]
    return torch.from_numpy(weights_T)[None], int(np.count_nonzero(counts))


def _attended_lengths(row: PackedSequence, mask: MaskMode) -> NDArray[np.int32]:
    """Lengths of what attention keeps apart in one row; padding is apart in both modes.

    Padding comes last, so a lower triangle over the whole row would give real tokens the same result for more work.
    """
    lengths = np.diff(row.cu_seqlens)
    if mask is MaskMode.BLOCK_CAUSAL:
        return lengths
    lengths = np.array([len(row) - row.num_padding, row.num_padding], np.int32)
    return lengths[lengths > 0]


def _tensor(values: NDArray[np.int32]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))[None]
