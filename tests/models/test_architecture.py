"""Flags that describe a model, against its configuration."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from seqpack.core.errors import ConfigError
from seqpack.models.architecture import check_architecture
from seqpack.options.megatron import ArchitectureOptions

DENSE = {
    "num_layers": 3,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 16,
    "normalization": "RMSNorm",
    "norm_epsilon": 1e-6,
    "rotary_base": 1e6,
    "position_embedding_type": "rope",
    "swiglu": True,
    "untie_embeddings_and_output_weights": True,
    "vocab_size": 200,
    "padded_vocab_size": 256,
}
EXPERTS = {"num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 48, "moe_aux_loss_coeff": 0.001}
OTHERS = {
    "num_layers": 4,
    "hidden_size": 128,
    "ffn_hidden_size": 97,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "kv_channels": 32,
    "normalization": "LayerNorm",
    "norm_epsilon": 1e-5,
    "rotary_base": 1e4,
    "position_embedding_type": "none",
    "vocab_size": 256,
    "padded_vocab_size": 199,
    "num_experts": 8,
    "moe_router_topk": 1,
    "moe_ffn_hidden_size": 96,
    "moe_aux_loss_coeff": 0.01,
}


def config(family: str, **changed: Any) -> Any:
    values = {
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "vocab_size": 200,
        "tie_word_embeddings": False,
    }
    if family == "qwen3_moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        values |= {**experts, "router_aux_loss_coef": 0.001}
    return AutoConfig.for_model(family, **values | changed)


def check(config: Any, **flags: Any) -> None:
    check_architecture(ArchitectureOptions(**flags).given(), config, "models/mine")


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("qwen2", {"add_qkv_bias": True}),
        ("qwen3", {"qk_layernorm": True}),
        ("qwen3_moe", {"qk_layernorm": True, **EXPERTS}),
    ],
)
def test_flags_of_the_same_model_pass(family: str, flags: dict[str, Any]) -> None:
    given = ArchitectureOptions(**DENSE, **flags).given()
    assert len(given) == len(DENSE) + len(flags)
    check_architecture(given, config(family), "models/mine")


@pytest.mark.parametrize("name", OTHERS)
def test_another_value_is_named_with_that_of_the_configuration(name: str) -> None:
    flag = f"--{name.replace('_', '-')} {OTHERS[name]}"
    with pytest.raises(ConfigError, match=f"models/mine has another architecture: {flag} ") as raised:
        check(config("qwen3_moe"), **{name: OTHERS[name]})
    assert raised.value.code == "SP230"


@pytest.mark.parametrize(
    ("flag", "family", "changed"),
    [
        ("add_qkv_bias", "llama", {}),
        ("qk_layernorm", "qwen2", {}),
        ("untie_embeddings_and_output_weights", "qwen2", {"tie_word_embeddings": True}),
        ("group_query_attention", "llama", {"num_key_value_heads": 4}),
        ("swiglu", "llama", {"hidden_act": "gelu"}),
        ("num_experts", "llama", {}),
    ],
)
def test_a_part_that_the_model_does_not_have(flag: str, family: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')}"):
        check(config(family, **changed), **{flag: 8 if flag == "num_experts" else True})


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--num-layers 9 \(num_hidden_layers is 3\), --hidden-size 1 \(hidden_size"):
        check(config("llama"), num_layers=9, hidden_size=1)


def test_mixtral_names_its_experts_otherwise() -> None:
    mixtral = config("mixtral", num_local_experts=4, num_experts_per_tok=2)
    check(mixtral, num_experts=4, moe_router_topk=2, moe_ffn_hidden_size=96)
    with pytest.raises(ConfigError, match="--num-experts 8"):
        check(mixtral, num_experts=8)
