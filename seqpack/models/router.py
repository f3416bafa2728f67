"""The load-balancing loss of a mixture of experts, over real tokens only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def load_balancing_loss(
    router_logits: Sequence[torch.Tensor],
    experts_per_token: int,
    is_real_T: torch.Tensor,
    *,
    sum_of_ranks: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach,
) -> torch.Tensor:
    """How unevenly tokens go to experts, a scalar: ``experts_per_token`` if evenly, up to E times that if not.

    ``router_logits`` holds ``[T, E]`` for every layer. Only tokens with ``is_real_T`` count: padding would look like
    many equal tokens. The share of assignments has no gradient, the mean probability has; both are taken over all
    layers together, as transformers does. Where ranks share the tokens, ``sum_of_ranks`` adds counts up over them, and
    what each returns is its part of the loss.
    """
    each_L3E = torch.stack([routing_sums(logits, experts_per_token, is_real_T) for logits in router_logits])
    return loss_of_sums(each_L3E.sum(0), sum_of_ranks)


def routing_sums(logits_TE: torch.Tensor, experts_per_token: int, is_real_T: torch.Tensor) -> torch.Tensor:
    """What one layer adds to the loss, ``[3, E]``: assignments, real tokens in every column, and probabilities.

    Sums of layers are the sums of the model, so that layers may lie on several ranks.
    """
    real_RE = logits_TE[is_real_T]
    probabilities_RE = real_RE.to(torch.promote_types(real_RE.dtype, torch.float32)).softmax(-1)
    chosen_RC = probabilities_RE.topk(experts_per_token, dim=-1).indices
    counts_E = torch.bincount(chosen_RC.flatten(), minlength=logits_TE.shape[1])
    tokens_E = torch.full_like(counts_E, len(real_RE))
    return torch.stack([counts_E.to(probabilities_RE), tokens_E.to(probabilities_RE), probabilities_RE.sum(0)])


def loss_of_sums(
    sums_3E: torch.Tensor, sum_of_ranks: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
) -> torch.Tensor:
    """The loss from the sums of all layers; see ``load_balancing_loss``."""
    counts_E, tokens_E = sum_of_ranks(sums_3E[:2]).unbind()
    return (counts_E * sums_3E[2] / tokens_E**2).sum() * len(counts_E)
