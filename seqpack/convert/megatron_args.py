"""The ``args`` of a Megatron checkpoint: what Megatron-LM compares with its flags, or takes over from it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch

from seqpack.convert.dims import ModelDims, read_rope
from seqpack.convert.families import Family
from seqpack.core.errors import CheckpointError


def make_args(config: dict[str, Any], family: Family, dims: ModelDims, dtype: torch.dtype) -> Namespace:
    """Every name that Megatron-LM reads from a checkpoint, with the value a training run of this model would have."""
    return Namespace(
        **_architecture(config, family, dims),
        **_positions(config),
        **_vocabulary(dims),
        **_MIXTURE_OF_EXPERTS,
        **_RUN,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
    )


def check_args(args: Namespace | None, dims: ModelDims) -> None:
    """CheckpointError if a checkpoint's own args contradict the config it is about to get.

    Shapes alone do not tell: 8 heads of 64 and 16 heads of 32 fill the same matrix in different orders.
    """
    expected: dict[str, object] = {
        "num_layers": dims.num_layers,
        "hidden_size": dims.hidden_size,
        "num_attention_heads": dims.num_heads,
        "kv_channels": dims.head_dim,
    }
    # MindSpeed-LLM's converter writes group_query_attention=False and no num_query_groups even for grouped models
    if getattr(args, "group_query_attention", False):
        expected["num_query_groups"] = dims.num_groups
    wrong = [
        f"{name} is {getattr(args, name)} in the checkpoint's args and {value} in config.json"
        for name, value in expected.items()
        if getattr(args, name, None) not in (None, value)
    ]
    if wrong:
        raise CheckpointError(
            "SP404", "; ".join(wrong), help="give the directory of the model that was trained with --hf-dir"
        )


def _architecture(config: dict[str, Any], family: Family, dims: ModelDims) -> dict[str, Any]:
    return {
        "num_layers": dims.num_layers,
        "hidden_size": dims.hidden_size,
        "ffn_hidden_size": dims.ffn_hidden_size,
        "num_attention_heads": dims.num_heads,
        "group_query_attention": dims.num_groups != dims.num_heads,
        "num_query_groups": dims.num_groups,
        "kv_channels": dims.head_dim,
        "add_bias_linear": False,
        "add_qkv_bias": family.has_qkv_bias,
        "qk_layernorm": False,
        "swiglu": True,
        "squared_relu": False,
        "normalization": "RMSNorm",
        "norm_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "apply_layernorm_1p": False,
        "apply_query_key_layer_scaling": False,
        "attention_dropout": float(config.get("attention_dropout", 0.0)),
        "hidden_dropout": 0.0,
        "untie_embeddings_and_output_weights": not dims.tied,
    }


def _positions(config: dict[str, Any]) -> dict[str, Any]:
    rope = read_rope(config)
    length = int(config.get("max_position_embeddings", 2048))
    return {
        "seq_length": length,
        "max_position_embeddings": length,
        "position_embedding_type": "rope",
        # True in any run that says --position-embedding-type rope, and Megatron-LM insists that both agree
        "add_position_embedding": True,
        "use_rotary_position_embeddings": True,
        "rotary_base": int(rope.theta) if rope.theta.is_integer() else rope.theta,
        "rotary_percent": 1.0,
        "rotary_interleaved": False,
        "rotary_seq_len_interpolation_factor": rope.factor if rope.kind == "linear" else None,
        "use_rope_scaling": rope.kind == "llama3",
        "rope_scaling_factor": rope.factor if rope.kind == "llama3" else 8.0,
    }


def _vocabulary(dims: ModelDims) -> dict[str, Any]:
    return {
        "vocab_size": dims.vocab_size,
        "padded_vocab_size": dims.vocab_size,
        "make_vocab_size_divisible_by": 1,
        "tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer_model": None,
    }


_MIXTURE_OF_EXPERTS: dict[str, Any] = {
    "num_experts": None,
    "moe_layer_freq": 1,
    "moe_ffn_hidden_size": None,
    "moe_router_topk": 2,
    "moe_router_pre_softmax": False,
    "moe_grouped_gemm": False,
    "moe_shared_expert_intermediate_size": None,
}

_RUN: dict[str, Any] = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "transformer_impl": "local",
    "use_mcore_models": True,
    "ckpt_format": "torch",
    "consumed_train_samples": 0,
    "consumed_valid_samples": 0,
}
