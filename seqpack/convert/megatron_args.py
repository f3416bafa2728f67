"""The ``args`` of a Megatron checkpoint: what Megatron-LM compares with its flags, or takes over from it."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

from seqpack.convert.dims import ModelDims, read_number, read_rope
from seqpack.convert.dtypes import DType
from seqpack.convert.mcore import Experts, Form, Model
from seqpack.convert.torch_pickle import TorchDType
from seqpack.core.errors import CheckpointError

MODEL_TYPE = "model_type_hf"
"""Name under which ``args`` keep the family; MindSpeed-LLM's converter calls it so."""


def make_args(config: dict[str, Any], model: Model, form: Form, dtype: DType, ckpt_format: str) -> Namespace:
    """Every name that Megatron-LM reads from a checkpoint, with the value a training run of this model would have."""
    return Namespace(
        **_architecture(config, model, form),
        **_positions(config),
        **_vocabulary(model.dims, form),
        **_experts(config, model.dims, form),
        **_split_args(form),
        **weight_args(dtype, form, ckpt_format),
        **_RUN,
        **{MODEL_TYPE: model.converter.name},
    )


def split_again(args: Namespace, form: Form, dtype: DType, ckpt_format: str) -> Namespace:
    """The args of a checkpoint, for the same model in another form; what the run had else stays as it was."""
    changed = _split_args(form) | weight_args(dtype, form, ckpt_format)
    grouped = {"moe_grouped_gemm": form.experts is not Experts.SEQUENTIAL} if getattr(args, "num_experts", 0) else {}
    layers = {"num_layers": form.split.num_slots, "padded_vocab_size": form.vocab_rows}
    plain = {name: value for name, value in vars(args).items() if _is_plain(value)}
    return Namespace(**plain | changed | layers | grouped)


def check_args(args: Namespace | None, dims: ModelDims, form: Form) -> None:
    """CheckpointError if a checkpoint's own args contradict its files, or the config it is about to get.

    Shapes alone do not tell: 8 heads of 64 and 16 heads of 32 fill the same matrix in different orders.
    """
    expected: dict[str, object] = {
        "hidden_size": dims.hidden_size,
        "num_attention_heads": dims.num_heads,
        "kv_channels": dims.head_dim,
    }
    # MindSpeed-LLM's converter writes group_query_attention=False and no num_query_groups even for grouped models
    if getattr(args, "group_query_attention", False):
        expected["num_query_groups"] = dims.num_groups
    wrong = _contradictions(args, expected, "config.json")
    real = form.split.num_slots - len(form.split.noop_layers)
    if real != dims.num_layers:
        wrong.append(f"num_layers: the checkpoint's files hold {real} layers, config.json says {dims.num_layers}")
    layers = getattr(args, "num_layers", None)
    # with layers that do nothing, some programs count them and some do not
    if layers is not None and layers not in (form.split.num_slots, real):
        wrong.append(f"num_layers is {layers} in the checkpoint's args, its files hold {real} layers")
    if wrong:
        raise CheckpointError(
            "SP404", "; ".join(wrong), help="give the directory of the model that was trained with --hf-dir"
        )
    split = form.split
    found = {
        "tensor_model_parallel_size": split.tp,
        "pipeline_model_parallel_size": split.pp,
        "expert_model_parallel_size": split.ep,
    }
    if wrong := _contradictions(args, found, "its files"):
        raise CheckpointError(
            "SP411", "; ".join(wrong), help="a rank is missing, or files of two checkpoints are mixed: copy it again"
        )


def config_from_args(args: Namespace) -> dict[str, Any]:
    """What a ``config.json`` would say of the sizes of a checkpoint, as far as its args tell; {} if they do not."""
    names = {
        "hidden_size": "hidden_size",
        "intermediate_size": "ffn_hidden_size",
        "num_attention_heads": "num_attention_heads",
        "head_dim": "kv_channels",
        "max_position_embeddings": "max_position_embeddings",
        "rms_norm_eps": "norm_epsilon",
        "num_experts": "num_experts",
        "moe_intermediate_size": "moe_ffn_hidden_size",
        "num_experts_per_tok": "moe_router_topk",
        "rope_theta": "rotary_base",
    }
    config = {theirs: getattr(args, ours, None) for theirs, ours in names.items()}
    noop = arg_numbers(args, "noop_layers")
    layers = getattr(args, "num_layers", None)
    config["num_hidden_layers"] = layers - len(noop) if isinstance(layers, int) else None
    config["vocab_size"] = getattr(args, "vocab_size", None) or getattr(args, "padded_vocab_size", None)
    if getattr(args, "group_query_attention", False):
        config["num_key_value_heads"] = getattr(args, "num_query_groups", None)
    config["tie_word_embeddings"] = not getattr(args, "untie_embeddings_and_output_weights", True)
    config["model_type"] = _family(args)
    frequency = getattr(args, "moe_layer_freq", 1)
    if isinstance(frequency, list):
        real = [has_experts for slot, has_experts in enumerate(frequency) if slot not in noop]
        config["mlp_only_layers"] = [layer for layer, has_experts in enumerate(real) if not has_experts]
    return {name: value for name, value in config.items() if value is not None}


def arg_numbers(args: Namespace | None, name: str) -> tuple[int, ...]:
    """Numbers that args hold as text with commas between, in a list or in a set; none if they do not."""
    value = getattr(args, name, None)
    if isinstance(value, str):
        return tuple(map(int, re.findall(r"\d{1,9}", value)))
    return tuple(filter(lambda each: type(each) is int, value)) if isinstance(value, list | tuple | set) else ()


def weight_args(dtype: DType, form: Form, ckpt_format: str) -> dict[str, Any]:
    return {
        "params_dtype": TorchDType(dtype.torch),
        "bf16": dtype is DType.BF16,
        "fp16": dtype is DType.F16,
        "transformer_impl": "transformer_engine" if form.transformer_engine else "local",
        "ckpt_format": ckpt_format,
    }


def _family(args: Namespace) -> str:
    """The family that args describe; of families that differ in nothing but their names, the oldest."""
    if isinstance(name := getattr(args, MODEL_TYPE, None), str):
        return name
    if getattr(args, "num_experts", None):
        return "qwen3_moe" if getattr(args, "qk_layernorm", False) else "mixtral"
    if getattr(args, "qk_layernorm", False):
        return "qwen3"
    return "qwen2" if getattr(args, "add_qkv_bias", False) else "llama"


def _contradictions(args: Namespace | None, expected: dict[str, Any], where: str) -> list[str]:
    return [
        f"{name} is {getattr(args, name)} in the checkpoint's args and {value} in {where}"
        for name, value in expected.items()
        if getattr(args, name, None) not in (None, value)
    ]


def _is_plain(value: Any) -> bool:
    """Whether a value of args can be written again: what other packages put there was not read."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return value is None or isinstance(value, bool | int | float | str | TorchDType)


def _architecture(config: dict[str, Any], model: Model, form: Form) -> dict[str, Any]:
    dims, converter = model.dims, model.converter
    return {
        "num_layers": form.split.num_slots,
        "hidden_size": dims.hidden_size,
        "ffn_hidden_size": dims.ffn_hidden_size,
        "num_attention_heads": dims.num_heads,
        "group_query_attention": dims.num_groups != dims.num_heads,
        "num_query_groups": dims.num_groups,
        "kv_channels": dims.head_dim,
        "add_bias_linear": False,
        "add_qkv_bias": converter.has("self_attention.linear_qkv.bias"),
        "qk_layernorm": converter.has("self_attention.q_layernorm.weight"),
        "swiglu": True,
        "squared_relu": False,
        "normalization": "RMSNorm",
        "norm_epsilon": read_number(config, "rms_norm_eps", 1e-6),
        "apply_layernorm_1p": False,
        "apply_query_key_layer_scaling": False,
        "attention_dropout": read_number(config, "attention_dropout", 0.0),
        "hidden_dropout": 0.0,
        "untie_embeddings_and_output_weights": not dims.tied,
    }


def _positions(config: dict[str, Any]) -> dict[str, Any]:
    rope = read_rope(config)
    length = int(read_number(config, "max_position_embeddings", 2048))
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


def _vocabulary(dims: ModelDims, form: Form) -> dict[str, Any]:
    return {
        "vocab_size": dims.vocab_size,
        "padded_vocab_size": form.vocab_rows,
        "make_vocab_size_divisible_by": 1,
        "tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer_model": None,
    }


def _experts(config: dict[str, Any], dims: ModelDims, form: Form) -> dict[str, Any]:
    has_experts = dims.num_experts > 0
    frequency = [0 if layer in dims.dense_layers else 1 for layer in form.split.slots]
    return {
        "num_experts": dims.num_experts or None,
        "moe_layer_freq": frequency if dims.dense_layers else 1,
        "moe_ffn_hidden_size": dims.expert_ffn_size or None,
        "moe_router_topk": int(read_number(config, "num_experts_per_tok", 2)),
        # softmax over all experts, then the chosen ones: without renormalisation, Megatron calls that pre-softmax
        "moe_router_pre_softmax": has_experts and config.get("norm_topk_prob") is False,
        "moe_grouped_gemm": has_experts and form.experts is not Experts.SEQUENTIAL,
        "moe_shared_expert_intermediate_size": None,
    }


def _split_args(form: Form) -> dict[str, Any]:
    split = form.split
    chunk = len(split.stages[0][0])
    return {
        "tensor_model_parallel_size": split.tp,
        "pipeline_model_parallel_size": split.pp,
        "virtual_pipeline_model_parallel_size": split.vpp if split.vpp > 1 else None,
        "num_layers_per_virtual_pipeline_stage": chunk if split.vpp > 1 else None,
        "num_layer_list": None if split.is_even else ",".join(map(str, split.layers_per_stage)),
        "noop_layers": ",".join(map(str, split.noop_layers)) or None,
        "expert_model_parallel_size": split.ep,
        "expert_tensor_parallel_size": split.expert_tp,
    }


_RUN: dict[str, Any] = {
    "use_mcore_models": True,
    "consumed_train_samples": 0,
    "consumed_valid_samples": 0,
}
