"""The same samples one at a time through the stock model of ``transformers``: no packing, no attention of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from seqpack.core.types import IGNORE_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.models.load import ModelSpec
    from seqpack.runtime.device import DeviceBackend
    from seqpack.train.verify.expected import Expected, Unit

LOGIT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Reference:
    """A stock model; every rank has a whole one."""

    model: Any

    @classmethod
    def load(cls, spec: ModelSpec, dtype: torch.dtype, backend: DeviceBackend) -> Reference:
        """The weights of ``spec``, which come from its directory."""
        from transformers import AutoModelForCausalLM

        from seqpack.runtime.quiet import quiet_transformers

        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                spec.directory, config=spec.config, dtype=dtype, attn_implementation="sdpa", local_files_only=True
            )
        return cls(model.to(backend.device).eval())

    @torch.no_grad()
    def hidden(self, expected: Expected, unit: Unit) -> torch.Tensor:
        """Last hidden states ``[tokens, D]`` of one unit alone."""
        return self._hidden(expected, unit)

    def gradients(
        self, micro_batches: Sequence[Expected], reduction: Literal["token", "sample", "pack"]
    ) -> tuple[float, dict[str, torch.Tensor]]:
        """Mean loss over tokens, samples or packs, and the gradient of every parameter."""
        self.model.zero_grad(set_to_none=True)
        weights = [_loss_weights(expected, reduction) for expected in micro_batches]
        total_weight = sum(float(weights_T.sum()) for weights_T in weights)
        total = 0.0
        for expected, weights_T in zip(micro_batches, weights, strict=True):
            for unit in expected.units:
                if weights_T[unit.start : unit.end].any():
                    loss = self._loss(expected, unit, weights_T) / total_weight
                    torch.autograd.backward(loss)
                    total += loss.item()
        named = self.model.named_parameters()
        return total, {name: weight.grad for name, weight in named if weight.grad is not None}

    def _hidden(self, expected: Expected, unit: Unit) -> torch.Tensor:
        ids = torch.from_numpy(expected.input_ids[unit.start : unit.end])[None].to(self.model.device)
        hidden_TD: torch.Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return hidden_TD

    def _loss(self, expected: Expected, unit: Unit, weights_T: NDArray[np.float64]) -> torch.Tensor:
        device, part = self.model.device, slice(unit.start, unit.end)
        trained = np.flatnonzero(weights_T[part])
        hidden_LD = self._hidden(expected, unit)[torch.from_numpy(trained).to(device)]
        labels_L = torch.from_numpy(expected.labels[part][trained]).to(device)
        weights_L = torch.from_numpy(weights_T[part][trained]).to(device)
        head_VD = self.model.get_output_embeddings().weight
        wide = torch.promote_types(head_VD.dtype, torch.float32)
        size = max(1, LOGIT_BYTES // (head_VD.shape[0] * wide.itemsize))

        def of_chunk(hidden_CD: torch.Tensor, chunk: slice) -> torch.Tensor:
            losses_C = cross_entropy((hidden_CD @ head_VD.t()).to(wide), labels_L[chunk], reduction="none")
            return losses_C @ weights_L[chunk].to(wide)

        chunks: Iterator[slice] = (slice(start, start + size) for start in range(0, len(labels_L), size))
        losses = [checkpoint(of_chunk, hidden_LD[chunk], chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(losses).sum()


def _loss_weights(expected: Expected, reduction: Literal["token", "sample", "pack"]) -> NDArray[np.float64]:
    """What each token counts in the loss, ``[T]``: 1, or 1 / trained tokens of its sample or pack."""
    weights: NDArray[np.float64] = (expected.labels != IGNORE_INDEX).astype(np.float64)
    begin = 0
    for row in expected.rows:
        ends = [0, len(row)] if reduction == "pack" else row.cu_seqlens.tolist()
        for start, end in pairwise(ends):
            part = weights[begin + start : begin + end]
            if reduction != "token" and part.any():
                part /= part.sum()
        begin += len(row)
    return weights
