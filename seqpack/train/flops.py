"""Floating-point operations of a step, from the lengths of its real samples: the numerator of MFU.

Counted are multiplications and additions of matrix products, forward and twice that backward. Padding counts nothing,
recomputation counts nothing, and the output layer counts for trained tokens alone, as that is all it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.runtime.batch import Batch

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "910B": 354.0}
"""bfloat16 without sparsity, by a part of the device's name."""


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """What a model computes: ``matrices`` are the weights that a token passes in all layers together.

    ``windows`` has an entry for each layer, None where attention sees the whole sample; ``attention_width`` is query
    heads x head size; ``head`` is vocabulary x hidden size. With ``adapters``, weights of LoRA that a token passes, the
    others are frozen: they have no gradient of their own, only one that goes through them.
    """

    matrices: int
    windows: tuple[int | None, ...]
    attention_width: int
    head: int
    adapters: int = 0

    @classmethod
    def of(cls, config: Any, *, adapters: int = 0) -> ModelFlops:
        """Counted on a model without memory; of experts, those that a token is sent to."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
        window = getattr(config, "sliding_window", None)
        return cls(
            matrices=sum(_active(config, name, weight) for name, weight in model.named_parameters()),
            windows=tuple(None if kind == "full_attention" else window for kind in kinds),
            attention_width=heads * head_size,
            head=config.vocab_size * config.hidden_size,
            adapters=adapters,
        )

    def of_batch(self, batch: Batch) -> float:
        """Operations of one micro-batch, forward and backward, of all ranks that share it."""
        batch = batch if batch.shared is None else batch.shared.whole
        starts = batch.segments.attended.cu_seqlens[:-1]
        lengths = np.add.reduceat(batch.is_real[0].numpy(), starts, dtype=np.int64)
        return self.of_samples(lengths, batch.num_targets)

    def of_rows(
        self, row: NDArray[np.integer], lengths: NDArray[np.integer], num_targets: NDArray[np.integer], num_rows: int
    ) -> NDArray[np.float64]:
        """Operations of each row, from its pieces: the row, length and targets of every piece."""
        pairs = sum(_pairs(lengths, window).astype(np.float64) for window in self.windows)
        # Python's numbers take the width of the array they meet, and the weights of a large model do not fit 32 bits.
        tokens, targets = lengths.astype(np.float64), num_targets.astype(np.float64)
        pieces = 6.0 * (self.matrices * tokens + self.head * targets) + 12.0 * self.attention_width * pairs
        summed: NDArray[np.float64] = np.bincount(row, weights=pieces, minlength=num_rows).astype(np.float64)
        return summed

    def of_samples(self, lengths: NDArray[np.integer], num_targets: int) -> float:
        """6 for each weight a token passes (4 if frozen), 12 for each query and key that meet, per channel."""
        pairs = sum(float(_pairs(lengths, window).sum()) for window in self.windows)
        num_tokens = float(lengths.sum())
        weights = self.matrices * num_tokens + self.head * num_targets
        products = (4.0 if self.adapters else 6.0) * weights + 6.0 * self.adapters * num_tokens
        return products + 12.0 * self.attention_width * pairs


def costs_of_layers(config: Any) -> list[float]:
    """Weights that a token passes in each layer, and in the output layer at the end: what a pipeline is cut by."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    costs = [0.0] * config.num_hidden_layers
    for name, weight in model.named_parameters():
        if active := _active(config, name, weight):
            costs[int(name.partition(".layers.")[2].partition(".")[0])] += active
    return [*costs, float(config.vocab_size * config.hidden_size)]


def peak_flops(device_name: str) -> float | None:
    """Operations per second a device can do at most, or None if that is not known."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in device_name), None)


def _active(config: Any, name: str, weight: torch.Tensor) -> int:
    """Weights of a parameter that one token passes; 0 for embeddings, the output layer, norms and biases."""
    if ".layers." not in name or weight.ndim < 2:
        return 0
    if weight.ndim == 3:
        return weight.numel() // weight.shape[0] * int(config.num_experts_per_tok)
    return weight.numel()


def _pairs(lengths: NDArray[np.integer], window: int | None) -> NDArray[np.int64]:
    """Queries and keys that meet in causal samples of these lengths."""
    lengths = lengths.astype(np.int64)
    reach = lengths if window is None else np.minimum(lengths, window)
    met: NDArray[np.int64] = reach * (reach + 1) // 2 + (lengths - reach) * reach
    return met
