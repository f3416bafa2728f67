"""A ``transformers`` causal language model that reads packed rows.

Our attention is registered under a name through the public ``AttentionInterface`` and no mask function is registered
for that name: transformers then builds no mask at all, and hands keyword arguments of ``forward`` to every layer. The
boundaries travel that way; no model code is patched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import nn

from seqpack.core.errors import ConfigError
from seqpack.models.local_parameters import local
from seqpack.models.router import load_balancing_loss

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention
    from seqpack.core.segments import Segments
    from seqpack.runtime.batch import Batch, SharedRows

ATTENTION_NAME = "seqpack"


class HeadLoss(Protocol):
    """Output layer and loss in one, so that logits of all tokens need not exist."""

    def __call__(
        self,
        hidden_TD: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_T: torch.Tensor,
        loss_weights_T: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross entropy summed over labelled tokens, each times its weight (1 without weights), a scalar."""


class PackedLM(nn.Module):
    """Root of what is trained: ``forward(batch)`` is the loss summed over the trained tokens of the batch.

    ``model`` comes from ``build_model``. The loss is passed in; dividing by the ``loss_units`` of the step is up to the
    caller. A mixture of experts whose configuration asks for it (``output_router_logits``) adds its router loss, once
    for each unit, so that the division leaves ``router_aux_loss_coef`` times the mean over micro-batches; ``sharers``
    processes that share every matrix all compute it, and each adds its share.
    """

    def __init__(self, model: Any, attention: VarlenAttention, head_loss: HeadLoss, *, sharers: int = 1) -> None:
        super().__init__()
        self.model = model
        self._attention = attention
        self._head_loss = head_loss
        self._sharers = sharers

    def forward(self, batch: Batch) -> torch.Tensor:
        output = self._base(batch)
        loss: torch.Tensor = self._head_loss(
            output.last_hidden_state[0],
            local(self._head.weight),
            batch.labels[0],
            None if batch.loss_weights is None else batch.loss_weights[0],
        )
        if not self._router_loss:
            return loss
        config = self.model.config
        sum_of_ranks = batch.shared.sum if batch.shared is not None else torch.Tensor.detach
        router = load_balancing_loss(
            output.router_logits, config.num_experts_per_tok, batch.is_real[0], sum_of_ranks=sum_of_ranks
        )
        loss += config.router_aux_loss_coef * batch.loss_units / self._sharers * router
        return loss

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Output of the last layer, ``[T, D]``."""
        hidden_TD: torch.Tensor = self._base(batch).last_hidden_state[0]
        return hidden_TD

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of every token, ``[T, V]``: for looking at a model, not for training it."""
        logits_TV: torch.Tensor = self._head(self.hidden(batch))
        return logits_TV

    @property
    def _head(self) -> Any:
        return self.model.get_output_embeddings()

    @property
    def _router_loss(self) -> bool:
        return bool(getattr(self.model.config, "output_router_logits", False))

    def _base(self, batch: Batch) -> Any:
        router = {"output_router_logits": True} if self._router_loss else {}
        return self.model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            segments=batch.segments,
            varlen_attention=self._attention,
            shared_rows=batch.shared,
            **router,
        )


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
    segments: Segments | None = None,
    varlen_attention: VarlenAttention | None = None,
    shared_rows: SharedRows | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """The signature transformers calls; its result is ``[1, T, N, H]``. SP202 for what it cannot compute."""
    if segments is None or varlen_attention is None:
        _refuse("its layers do not hand keyword arguments to attention, so the boundaries do not arrive")
    if attention_mask is not None:
        _refuse("it makes an attention mask of its own")
    if dropout or softcap or s_aux is not None:
        what = "dropout" if dropout else "a soft cap" if softcap else "sinks"
        _refuse(f"its attention has {what}, which packed attention does not compute")
    scale = q_1NTH.shape[-1] ** -0.5 if scaling is None else scaling
    if shared_rows is not None:
        return shared_rows.attend(q_1NTH, k_1KTH, v_1KTH, scale=scale, window=sliding_window), None
    cu_seqlens = segments.attended.cu_seqlens
    out_1NTH, _ = varlen_attention(
        q_1NTH, k_1KTH, v_1KTH, cu_q=cu_seqlens, cu_k=cu_seqlens, scale=scale, window=sliding_window
    )
    return out_1NTH.transpose(1, 2).contiguous(), None


def _refuse(reason: str) -> NoReturn:
    raise ConfigError("SP202", f"packed attention cannot compute this model: {reason}", help="choose another model")
