"""Do a Hugging Face model and a Megatron checkpoint hold the same weights, byte for byte?

The correspondence is written down a second time, from the Hugging Face side and as row numbers, so that a mistake in
``families.py`` or ``mapping.py`` does not check itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection

import torch

from seqpack.convert.dims import ModelDims
from seqpack.convert.huggingface import as_bytes
from seqpack.convert.mapping import TensorSource
from seqpack.core.errors import CheckpointError

OUTSIDE_LAYERS = {
    "model.embed_tokens.weight": "embedding.word_embeddings.weight",
    "model.norm.weight": "decoder.final_layernorm.weight",
    "lm_head.weight": "output_layer.weight",
}
WHOLE_IN_LAYER = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "pre_mlp_layernorm",
    "self_attn.o_proj": "self_attention.linear_proj",
    "mlp.down_proj": "mlp.linear_fc2",
}


def verify(
    huggingface: TensorSource,
    megatron: TensorSource,
    dims: ModelDims,
    *,
    without: Collection[str],
    advance: Callable[[int], None],
) -> dict[str, str]:
    """SHA-256 of every Hugging Face tensor, each found again in the checkpoint; ``without`` names those left out.

    CheckpointError (SP408) if a byte differs, or if the checkpoint has a row that no Hugging Face tensor accounts for.
    """
    digests: dict[str, str] = {}
    accounted: Counter[str] = Counter()
    for name in huggingface.specs:
        if name in without:
            continue
        home, rows = locate(name, dims)
        wanted, found = huggingface.read(name), megatron.read(home)[rows]
        digests[name] = _digest(wanted)
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape) or _digest(found) != digests[name]:
            raise _failed(f"{name} is not what {home} holds")
        accounted[home] += wanted.shape[0]
        advance(1)
    for home, spec in megatron.specs.items():
        if home not in without and accounted[home] != spec.shape[0]:
            raise _failed(f"{accounted[home]} of {spec.shape[0]} rows of {home} come from the Hugging Face model")
    return digests


def locate(name: str, dims: ModelDims) -> tuple[str, torch.Tensor | slice]:
    """The Megatron parameter that holds a Hugging Face parameter, and its rows there, in order."""
    if name in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[name], slice(None)
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    assert match, name
    layer, module, kind = match.groups()
    prefix = f"decoder.layers.{layer}."
    if module in WHOLE_IN_LAYER:
        return f"{prefix}{WHOLE_IN_LAYER[module]}.{kind}", slice(None)
    if module in ("mlp.gate_proj", "mlp.up_proj"):
        first = 0 if module == "mlp.gate_proj" else dims.ffn_hidden_size
        return f"{prefix}mlp.linear_fc1.{kind}", slice(first, first + dims.ffn_hidden_size)
    return f"{prefix}self_attention.linear_qkv.{kind}", _attention_rows(module, dims)


def _attention_rows(module: str, dims: ModelDims) -> torch.Tensor:
    """Row of linear_qkv for each row of q_proj, k_proj or v_proj."""
    is_query = module == "self_attn.q_proj"
    row = torch.arange((dims.num_heads if is_query else dims.num_groups) * dims.head_dim)
    head, within_head = row // dims.head_dim, row % dims.head_dim
    heads_per_group = dims.num_heads // dims.num_groups
    if is_query:
        place = head // heads_per_group * (heads_per_group + 2) + head % heads_per_group
    else:
        after_queries = ["self_attn.k_proj", "self_attn.v_proj"].index(module)
        place = head * (heads_per_group + 2) + heads_per_group + after_queries
    return place * dims.head_dim + within_head


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(as_bytes(tensor)).hexdigest()


def _failed(what: str) -> CheckpointError:
    return CheckpointError(
        "SP408",
        f"the files just written do not hold the source's weights: {what}",
        help="nothing was published; check the disk, and report this with the model's name",
    )
