"""Is packed training exact for this model? Tried on a tiny random copy: samples side by side against one at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from seqpack.core.errors import ConfigError, SeqpackError
from seqpack.core.segments import cu_seqlens_from_lengths
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.models.expert_parallel import has_experts
from seqpack.models.packed import ATTENTION_NAME, PackedLM, register_attention
from seqpack.models.roles import FAMILIES
from seqpack.models.tiny_copy import tiny_copies
from seqpack.runtime.batch import Batch, collate

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention
    from seqpack.models.packed import HeadLoss

LENGTHS = (9, 1, 14, 3)
NUM_PADDING = 2
MAX_PARAMETERS = 50_000_000
ROUNDING = 64
"""Times the distance of two neighbouring numbers: what sums in another order may differ by."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Where and in which numbers to compare, and up to which relative difference results are the same."""

    device: torch.device
    dtype: torch.dtype
    tolerance: float


EXACT = Terms(torch.device("cpu"), torch.float64, 1e-6)
"""Norms and rotations of transformers compute in float32 even here; a leak between samples is much more."""


def self_check(config: Any, attention: VarlenAttention, head_loss: HeadLoss) -> None:
    """Compare logits, loss and every gradient; ConfigError SP202 with the reason if they are not the same.

    Leaves the random generators of torch as they were.
    """
    if reason := packed_difference(config, attention, head_loss):
        raise ConfigError(
            "SP202",
            f"models of family {config.model_type!r} cannot be trained on packs: {reason}",
            help=f"tested families: {', '.join(FAMILIES)}",
        )


def packed_difference(
    config: Any,
    attention: VarlenAttention,
    head_loss: HeadLoss,
    *,
    terms: Terms = EXACT,
    change: Callable[[Any], object] | None = None,
) -> str:
    """What differs between samples in a pack and one at a time in the stock model, or runs badly; empty if nothing.

    ``change`` is done to the model that computes the pack. Leaves the random generators of torch as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _reason(config, attention, head_loss, terms, change or (lambda model: None))


def _reason(
    config: Any,
    attention: VarlenAttention,
    head_loss: HeadLoss,
    terms: Terms,
    change: Callable[[Any], object],
) -> str:
    try:
        stock = tiny_model(config)
    except Exception as error:  # whatever a family's own code raises
        return f"a tiny copy of it cannot be built to check it ({_short(error)})"
    try:
        model = _copy_of(stock, terms, attn_implementation=ATTENTION_NAME)
        change(model)
        packed = PackedLM(model, attention, head_loss)
        if terms is not EXACT:
            stock = _copy_of(stock, terms)
        row = _row(stock.config.vocab_size)
        return _head(stock, terms) or _difference(stock, packed, row, terms) or _leak(packed, row, terms)
    except SeqpackError as error:
        return error.message
    except Exception as error:
        return f"it does not run with our attention ({_short(error)})"


def tiny_model(config: Any, *, max_parameters: int = MAX_PARAMETERS, **kept: Any) -> Any:
    """A stock model with random float64 weights, none of them at a value that would hide a mistake.

    ``kept`` is what ``tiny_copies`` takes. Raises whatever the family's own code does if no copy can be built.
    """
    from transformers import AutoModelForCausalLM

    failures: list[Exception] = []
    for tiny in tiny_copies(config, **kept):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in AutoModelForCausalLM.from_config(tiny).parameters())
            if size > max_parameters:
                raise ValueError(f"it has {size:,} parameters")
            tiny._experts_implementation = "eager"  # the fast one does not compute in float64
            model = AutoModelForCausalLM.from_config(tiny, dtype=torch.float64).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
                model(input_ids=torch.arange(5)[None], use_cache=False)
        except Exception as error:
            failures.append(error)
        else:
            return model
    raise failures[-1]


def _head(stock: Any, terms: Terms) -> str:
    """Whether logits are more than one matrix times the last hidden state; empty if not."""
    input_ids = torch.arange(5, device=terms.device)[None]
    with torch.no_grad():
        logits = stock(input_ids=input_ids, use_cache=False).logits
        hidden = stock.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        off = _relative(hidden @ stock.get_output_embeddings().weight.t(), logits)
    return "" if off < terms.tolerance else "its output layer is more than one matrix: a bias, a scale or a cap"


def _copy_of(stock: Any, terms: Terms, **implementation: str) -> Any:
    from transformers import AutoModelForCausalLM

    register_attention()
    config = copy.deepcopy(stock.config)  # from_config writes the name of the attention into it
    model = AutoModelForCausalLM.from_config(config, dtype=terms.dtype, **implementation)
    model.load_state_dict(stock.state_dict())
    return model.to(terms.device).eval()


def _row(vocab_size: int) -> PackedSequence:
    rng = np.random.default_rng(0)
    total = sum(LENGTHS)
    input_ids = rng.integers(0, vocab_size, total + NUM_PADDING).astype(np.int32)
    labels = np.where((np.arange(len(input_ids)) % 3 == 0) | (np.arange(len(input_ids)) >= total), -1, input_ids)
    labels = np.where(labels == -1, IGNORE_INDEX, labels).astype(np.int32)
    return PackedSequence(input_ids, labels, cu_seqlens_from_lengths([*LENGTHS, NUM_PADDING]), NUM_PADDING)


def _difference(stock: Any, packed: PackedLM, row: PackedSequence, terms: Terms) -> str:
    """What differs between the pack and its samples one at a time; empty if nothing does."""
    batch = collate([row], MaskMode.BLOCK_CAUSAL).to(terms.device)
    logits, loss = _one_by_one(stock, row, terms)
    with torch.no_grad():
        off = _relative(packed.logits(batch)[: len(logits)], logits)
    if not off < terms.tolerance:
        return f"its logits in a pack are not those of a sample alone (relative difference {off:.1e})"
    packed_loss: torch.Tensor = packed(batch)
    torch.autograd.backward(packed_loss)
    off = _relative(packed_loss.detach(), loss)
    if not off < terms.tolerance:
        return f"its loss in a pack is not that of its samples (relative difference {off:.1e})"
    theirs = dict(stock.named_parameters())
    for name, parameter in packed.model.named_parameters():
        ours, wanted = (p.grad if p.grad is not None else torch.zeros_like(p) for p in (parameter, theirs[name]))
        off = _relative(ours, wanted)
        if not off < terms.tolerance:
            return f"the gradient of {name} in a pack is not that of its samples (relative difference {off:.1e})"
    return ""


def _one_by_one(stock: Any, row: PackedSequence, terms: Terms) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of all real tokens and the summed loss; gradients add up in ``stock``."""
    wide = torch.promote_types(terms.dtype, torch.float32)
    logits, total = [], torch.zeros((), dtype=wide, device=terms.device)
    for start, end in pairwise(row.cu_seqlens[: row.num_samples + 1].tolist()):
        ids, labels = (
            torch.from_numpy(x[start:end].astype(np.int64)).to(terms.device) for x in (row.input_ids, row.labels)
        )
        found = stock(input_ids=ids[None], use_cache=False).logits[0]
        loss = cross_entropy(found[:-1].to(wide), labels[1:], ignore_index=IGNORE_INDEX, reduction="sum")
        torch.autograd.backward(loss)
        logits.append(found.detach())
        total += loss.detach()
    return torch.cat(logits), total


def _leak(packed: PackedLM, row: PackedSequence, terms: Terms) -> str:
    """Whether a token changes results outside its sample, or nothing at all; empty if neither."""
    changed = row.input_ids.copy()
    changed[0] = (changed[0] + 1) % packed.model.config.vocab_size
    other = PackedSequence(changed, row.labels, row.cu_seqlens, row.num_padding)
    batches: list[Batch] = [collate([each], MaskMode.BLOCK_CAUSAL).to(terms.device) for each in (row, other)]
    with torch.no_grad():
        before, after = (packed.logits(batch) for batch in batches)
    # Experts sum in another order when they get other tokens beside those compared.
    rounding = ROUNDING * torch.finfo(terms.dtype).eps if has_experts(packed.model.config) else 0.0
    if not _relative(before[LENGTHS[0] :], after[LENGTHS[0] :]) <= rounding:
        return "a token of one sample changes the logits of another"
    if torch.equal(before[1], after[1]):
        return "a token does not change the logits of the next one, so the check could not see a mistake"
    return ""


def _relative(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
