"""Output layer and cross entropy in one step, over trained tokens only and a piece at a time.

The logits of a 4,096-token row of a 152k vocabulary are 2.5 GB in float32. Here only labelled tokens reach the output
layer (prompts cost nothing), and gradients are taken from each piece of logits before the next one overwrites it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from seqpack.core.types import IGNORE_INDEX
from seqpack.runtime.collectives import own_run

LOGIT_BYTES = 64 * 2**20


def chunked_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_T: torch.Tensor,
    loss_weights_T: torch.Tensor | None = None,
    *,
    chunk_tokens: int | None = None,
    part: VocabularyPart | None = None,
) -> torch.Tensor:
    """Cross entropy summed over tokens whose label is not ``IGNORE_INDEX``, a scalar in at least float32.

    Each token counts ``loss_weights_T`` times, once without. ``chunk_tokens`` tokens have logits at a time; by default
    as many as fit ``LOGIT_BYTES``. Can be differentiated once. With ``part``, ``weight_VD`` are these words only and
    the result is the loss of tokens whose label is among them; the gradient of ``hidden_TD`` is a part as well.
    """
    if chunk_tokens is None:
        # The same on every rank of a group, which meet in every chunk.
        num_words = weight_VD.shape[0] if part is None else part.most_words
        chunk_tokens = max(1, LOGIT_BYTES // (num_words * _accumulation_dtype(weight_VD.dtype).itemsize))
    wanted = [tensor for tensor in (hidden_TD, weight_VD) if tensor.requires_grad and torch.is_grad_enabled()]
    with torch.no_grad():
        loss, gradients = _loss_and_gradients(
            hidden_TD, weight_VD, labels_T, loss_weights_T, chunk_tokens, part, wanted=wanted
        )
    for tensor, gradient in zip(wanted, gradients, strict=True):
        loss = loss + _KnownGradient.apply(tensor, gradient)  # type: ignore[no-untyped-call]
    return loss


@dataclass(frozen=True, slots=True)
class VocabularyPart:
    """The words of this rank of a group: from ``first`` on, as many as its weight has, at most ``most_words``."""

    first: int
    most_words: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, vocab_size: int, group: dist.ProcessGroup) -> VocabularyPart:
        return cls(own_run(vocab_size, group).start, -(-vocab_size // dist.get_world_size(group)), group)


def _loss_and_gradients(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_T: torch.Tensor,
    loss_weights_T: torch.Tensor | None,
    chunk_tokens: int,
    part: VocabularyPart | None,
    *,
    wanted: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss and its gradients with respect to those of ``hidden_TD`` and ``weight_VD`` that are ``wanted``."""
    trained = (labels_T != IGNORE_INDEX).nonzero().squeeze(1)
    hidden_LD, labels_L = hidden_TD[trained], labels_T[trained]  # L: the labelled tokens
    loss_weights_L = None if loss_weights_T is None else loss_weights_T[trained]
    accumulated = _accumulation_dtype(weight_VD.dtype)
    loss = torch.zeros((), dtype=accumulated, device=hidden_TD.device)
    grad_hidden_LD = torch.empty_like(hidden_LD)
    # A frozen output layer has no gradient to keep: with LoRA, vocabulary x width would be the largest tensor.
    weight_wanted = any(tensor is weight_VD for tensor in wanted)
    grad_weight_VD = torch.zeros_like(weight_VD, dtype=accumulated) if weight_wanted else None
    for start in range(0, len(labels_L), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        loss_weights_C = None if loss_weights_L is None else loss_weights_L[chunk].to(accumulated)
        chunk_loss, grad_logits = _chunk(
            hidden_LD[chunk], weight_VD, labels_L[chunk], loss_weights_C, part, with_grad=bool(wanted)
        )
        loss += chunk_loss
        if grad_logits is not None:
            grad_hidden_LD[chunk] = grad_logits @ weight_VD
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, grad_logits.t(), hidden_LD[chunk])
    gradients = []
    for tensor in wanted:
        if tensor is weight_VD and grad_weight_VD is not None:
            gradients.append(grad_weight_VD)
        else:
            gradients.append(torch.zeros_like(hidden_TD).index_copy_(0, trained, grad_hidden_LD))
    return loss, gradients


class _KnownGradient(torch.autograd.Function):
    """0, whose gradient with respect to ``tensor`` is known. One for each tensor: a pipeline asks for them apart."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.gradient, ctx.dtype = gradient, tensor.dtype
        return gradient.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Scaled in place: a second V x D buffer would double the largest allocation of a small model.
        assert ctx.gradient is not None, "this loss can be differentiated once"
        gradient = ctx.gradient.mul_(grads[0].to(ctx.gradient.dtype)).to(ctx.dtype)
        ctx.gradient = None
        return gradient, None


def _chunk(
    hidden_CD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_C: torch.Tensor,
    loss_weights_C: torch.Tensor | None,
    part: VocabularyPart | None,
    *,
    with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Summed loss of C tokens, and its gradient with respect to their logits in the dtype of the weights.

    With ``part``, tokens whose label is not among its words have loss 0 here, and their own elsewhere.
    """
    logits_CV = (hidden_CD @ weight_VD.t()).to(_accumulation_dtype(weight_VD.dtype))
    labels_C1, here_C1 = _labels_of_part(labels_C, part, logits_CV.shape[1])
    # In place throughout: one pass of exp serves the loss and the gradient, and no second buffer of logits exists.
    logits_CV -= _over_words(logits_CV.amax(-1, keepdim=True), part, dist.ReduceOp.MAX)
    of_label_C1 = logits_CV.gather(1, labels_C1)
    total_C1 = _over_words(logits_CV.exp_().sum(-1, keepdim=True), part, dist.ReduceOp.SUM)
    loss_C = ((total_C1.log() - of_label_C1) * here_C1)[:, 0]
    loss = loss_C.sum() if loss_weights_C is None else loss_weights_C @ loss_C
    if not with_grad:
        return loss, None
    grad_CV = logits_CV.div_(total_C1)  # softmax - one_hot
    grad_CV.scatter_add_(1, labels_C1, -torch.ones_like(total_C1) * here_C1)
    if loss_weights_C is not None:
        grad_CV *= loss_weights_C[:, None]
    return loss, grad_CV.to(weight_VD.dtype)


def _labels_of_part(
    labels_C: torch.Tensor, part: VocabularyPart | None, num_words: int
) -> tuple[torch.Tensor, torch.Tensor | int]:
    """Column of each label in the logits of this rank, ``[C, 1]``, and 1 where it has one, 0 where another rank has."""
    if part is None:
        return labels_C[:, None], 1
    column_C1 = labels_C[:, None] - part.first
    here_C1 = (column_C1 >= 0) & (column_C1 < num_words)
    return column_C1.clamp(0, num_words - 1), here_C1


def _over_words(of_part_C1: torch.Tensor, part: VocabularyPart | None, reduction: Any) -> torch.Tensor:
    """A maximum or sum over the words of this rank -> over the whole vocabulary."""
    if part is not None:
        dist.all_reduce(of_part_C1, reduction, group=part.group)
    return of_part_C1


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """``total += left @ right``, where ``total`` may be wider than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32
