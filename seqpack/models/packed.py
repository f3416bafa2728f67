"""A ``transformers`` causal language model that reads packed rows.

Our attention is registered under a name through the public ``AttentionInterface`` and no mask function is registered
for that name: transformers then builds no mask at all, and hands keyword arguments of ``forward`` to every layer. The
boundaries travel that way; no model code is patched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention
    from seqpack.core.segments import Segments
    from seqpack.runtime.batch import Batch

ATTENTION_NAME = "seqpack"


class HeadLoss(Protocol):
    """Output layer and loss in one, so that logits of all tokens need not exist."""

    def __call__(self, hidden_TD: torch.Tensor, weight_VD: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
        """Cross entropy summed over labelled tokens, a scalar."""


class PackedLM(nn.Module):
    """Root of what is trained: ``forward(batch)`` is the loss summed over the trained tokens of the batch.

    ``model`` comes from ``build_model``. The loss is passed in; dividing by the tokens of the step is up to the caller.
    """

    def __init__(self, model: Any, attention: VarlenAttention, head_loss: HeadLoss) -> None:
        super().__init__()
        self.model = model
        self._attention = attention
        self._head_loss = head_loss

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._head_loss(self.hidden(batch), self.model.lm_head.weight, batch.labels[0])

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Output of the last layer, ``[T, D]``."""
        output = self.model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            segments=batch.segments,
            varlen_attention=self._attention,
        )
        hidden_TD: torch.Tensor = output.last_hidden_state[0]
        return hidden_TD

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of every token, ``[T, V]``: for looking at a model, not for training it."""
        logits_TV: torch.Tensor = self.model.lm_head(self.hidden(batch))
        return logits_TV


def register_attention() -> None:
    """Make ``attn_implementation="seqpack"`` known to transformers; may be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, _attend)


def _attend(
    module: nn.Module,
    q_1NTH: torch.Tensor,
    k_1KTH: torch.Tensor,
    v_1KTH: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments,
    varlen_attention: VarlenAttention,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """The signature transformers calls; its result is ``[1, T, N, H]``."""
    # resolve_model refuses such models; a new one that slips through must not be computed wrongly.
    assert attention_mask is None and sliding_window is None and dropout == 0.0
    out_1NTH = varlen_attention(q_1NTH, k_1KTH, v_1KTH, segments=segments, scale=scaling)
    return out_1NTH.transpose(1, 2).contiguous(), None
