"""The load-balancing loss of a mixture of experts, over real tokens only."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def load_balancing_loss(
    router_logits: Sequence[torch.Tensor], experts_per_token: int, is_real_T: torch.Tensor
) -> torch.Tensor:
    """How unevenly tokens go to experts, a scalar: ``experts_per_token`` if evenly, up to E times that if not.

    ``router_logits`` holds ``[T, E]`` for every layer. Only tokens with ``is_real_T`` count: padding would look like
    many equal tokens. The share of assignments has no gradient, the mean probability has; both are taken over all
    layers together, as transformers does.
    """
    logits_RE = torch.cat([logits[is_real_T].float() for logits in router_logits])
    probabilities_RE = logits_RE.softmax(-1)
    chosen_RC = probabilities_RE.topk(experts_per_token, dim=-1).indices
    counts_E = torch.bincount(chosen_RC.flatten(), minlength=logits_RE.shape[1])
    share_E = counts_E.to(logits_RE.dtype) / len(logits_RE)
    return (share_E * probabilities_RE.mean(0)).sum() * logits_RE.shape[1]
