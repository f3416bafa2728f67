"""Output layer and cross entropy in one step, over trained tokens only and a piece at a time.

The logits of a 4,096-token row of a 152k vocabulary are 2.5 GB in float32. Here only labelled tokens reach the output
layer (prompts cost nothing), and gradients are taken from each piece of logits before the next one overwrites it.
"""

from __future__ import annotations

from typing import Any

import torch

from seqpack.core.types import IGNORE_INDEX

LOGIT_BYTES = 64 * 2**20


def chunked_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_T: torch.Tensor,
    loss_weights_T: torch.Tensor | None = None,
    *,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Cross entropy summed over tokens whose label is not ``IGNORE_INDEX``, a scalar in at least float32.

    Each token counts ``loss_weights_T`` times, once without. ``chunk_tokens`` tokens have logits at a time; by default
    as many as fit ``LOGIT_BYTES``. Can be differentiated once.
    """
    if chunk_tokens is None:
        row_bytes = weight_VD.shape[0] * _accumulation_dtype(weight_VD.dtype).itemsize
        chunk_tokens = max(1, LOGIT_BYTES // row_bytes)
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_TD, weight_VD, labels_T, loss_weights_T, chunk_tokens
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_T: torch.Tensor,
        loss_weights_T: torch.Tensor | None,
        chunk_tokens: int,
    ) -> torch.Tensor:
        trained = (labels_T != IGNORE_INDEX).nonzero().squeeze(1)
        hidden_LD, labels_L = hidden_TD[trained], labels_T[trained]  # L: the labelled tokens
        loss_weights_L = None if loss_weights_T is None else loss_weights_T[trained]
        accumulated = _accumulation_dtype(weight_VD.dtype)
        loss = torch.zeros((), dtype=accumulated, device=hidden_TD.device)
        with_grad = any(ctx.needs_input_grad)
        grad_hidden_LD = torch.empty_like(hidden_LD) if with_grad else None
        # A frozen output layer has no gradient to keep: with LoRA, vocabulary x width would be the largest tensor.
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=accumulated) if ctx.needs_input_grad[1] else None
        for start in range(0, len(labels_L), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            loss_weights_C = None if loss_weights_L is None else loss_weights_L[part].to(accumulated)
            chunk_loss, grad_logits = _chunk(hidden_LD[part], weight_VD, labels_L[part], loss_weights_C, with_grad)
            loss += chunk_loss
            if grad_hidden_LD is not None and grad_logits is not None:
                grad_hidden_LD[part] = grad_logits @ weight_VD
                if grad_weight_VD is not None:
                    _add_product(grad_weight_VD, grad_logits.t(), hidden_LD[part])
        if grad_hidden_LD is not None:
            ctx.grad_hidden_TD = torch.zeros_like(hidden_TD).index_copy_(0, trained, grad_hidden_LD)
            ctx.grad_weight_VD, ctx.weight_dtype = grad_weight_VD, weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Scaled in place: a second V x D buffer would double the largest allocation of a small model.
        assert ctx.grad_hidden_TD is not None, "this loss can be differentiated once"
        grad_hidden_TD = ctx.grad_hidden_TD.mul_(grads[0].to(ctx.grad_hidden_TD.dtype))
        grad_weight_VD = None
        if ctx.grad_weight_VD is not None:
            grad_weight_VD = ctx.grad_weight_VD.mul_(grads[0]).to(ctx.weight_dtype)
        ctx.grad_hidden_TD = ctx.grad_weight_VD = None
        return grad_hidden_TD, grad_weight_VD, None, None, None


def _chunk(
    hidden_CD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_C: torch.Tensor,
    loss_weights_C: torch.Tensor | None,
    with_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Summed loss of C tokens, and its gradient with respect to their logits in the dtype of the weights."""
    logits_CV = (hidden_CD @ weight_VD.t()).to(_accumulation_dtype(weight_VD.dtype))
    labels_C1 = labels_C[:, None]
    # In place throughout: one pass of exp serves the loss and the gradient, and no second buffer of logits exists.
    logits_CV -= logits_CV.amax(-1, keepdim=True)
    of_label_C1 = logits_CV.gather(1, labels_C1)
    total_C1 = logits_CV.exp_().sum(-1, keepdim=True)
    loss_C = (total_C1.log() - of_label_C1)[:, 0]
    loss = loss_C.sum() if loss_weights_C is None else loss_weights_C @ loss_C
    if not with_grad:
        return loss, None
    grad_CV = logits_CV.div_(total_C1)  # softmax - one_hot
    grad_CV.scatter_add_(1, labels_C1, -torch.ones_like(total_C1))
    if loss_weights_C is not None:
        grad_CV *= loss_weights_C[:, None]
    return loss, grad_CV.to(weight_VD.dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """``total += left @ right``, where ``total`` may be wider than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32
