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
    logits_RE = torch.cat([logits[is_real_T] for logits in router_logits])
    logits_RE = logits_RE.to(torch.promote_types(logits_RE.dtype, torch.float32))
    probabilities_RE = logits_RE.softmax(-1)
    chosen_RC = probabilities_RE.topk(experts_per_token, dim=-1).indices
    num_experts = logits_RE.shape[1]
    counts_E = torch.bincount(chosen_RC.flatten(), minlength=num_experts).to(logits_RE.dtype)
    totals = sum_of_ranks(torch.cat([counts_E, counts_E.new_tensor([len(logits_RE)])]))
    share_E, num_routed = totals[:-1] / totals[-1], totals[-1]
    return (share_E * probabilities_RE.sum(0)).sum() / num_routed * num_experts
