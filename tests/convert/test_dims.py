"""Configs as transformers 4 and 5 write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqpack.convert.dims import read_config, read_dims, read_number, read_rope
from seqpack.convert.families import find_converter
from seqpack.core.errors import CheckpointError, ConfigError

CONFIG: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
}
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_what_is_absent_or_null_is_taken_as_transformers_takes_it() -> None:
    dims = read_dims(CONFIG | {"head_dim": None})
    assert (dims.head_dim, dims.num_groups, dims.tied) == (8, 8, False)


def test_head_dim_is_a_size_of_its_own() -> None:
    dims = read_dims(CONFIG | {"head_dim": 20, "num_key_value_heads": 2})
    assert (dims.query_size, dims.kv_size, dims.heads_per_group) == (160, 40, 4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_theta": 5e5}, (5e5, "default", 1.0, True)),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}, (5e5, "linear", 4.0, True)),
        ({"rope_theta": 5e5, "rope_scaling": None}, (5e5, "default", 1.0, True)),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, (1e6, "default", 1.0, True)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}}, (5e5, "llama3", 32.0, True)),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 2}}, (1e4, "llama3", 32.0, False)),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}}, (1e6, "yarn", 4.0, False)),
        ({}, (1e4, "default", 1.0, True)),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": None}}, (1e4, "default", 1.0, True)),
    ],
)
def test_rotary_settings_of_both_generations(config: dict[str, Any], expected: tuple[object, ...]) -> None:
    rope = read_rope(config)
    assert (rope.theta, rope.kind, rope.factor, rope.is_known_to_megatron) == expected


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"vocab_size": None}, "SP401"),
        ({"hidden_size": "64"}, "SP401"),
        ({"num_hidden_layers": 0}, "SP401"),
        ({"num_key_value_heads": 3}, "SP404"),
        ({"hidden_size": 65}, "SP404"),
        ({"hidden_act": "gelu"}, "SP409"),
    ],
)
def test_unusable_sizes(changes: dict[str, Any], code: str) -> None:
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        read_dims(CONFIG | changes)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_scaling": "linear"}, "rope_scaling 'linear' where an object"),
        ({"rope_parameters": [1]}, r"rope_parameters \[1\] where an object"),
        ({"rope_theta": "1e6"}, "rope_theta '1e6' where a number"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta nan where a number"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "factor True where a number"),
    ],
)
def test_rotary_settings_that_are_none(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        read_rope(config)
    assert caught.value.code == "SP401"


@pytest.mark.parametrize("layers", ["x", 1, ["1"], [True]])
def test_dense_layers_that_are_no_list_of_layers(layers: object) -> None:
    with pytest.raises(CheckpointError, match="mlp_only_layers") as caught:
        read_dims(CONFIG | {"num_experts": 4, "mlp_only_layers": layers}, experts=True)
    assert caught.value.code == "SP401"


def test_numbers_of_a_config() -> None:
    assert read_number({"eps": 1}, "eps", 2.0) == 1.0
    assert read_number({"eps": None}, "eps", 2.0) == read_number({}, "eps", 2.0) == 2.0
    with pytest.raises(CheckpointError, match="eps 'x' where a number"):
        read_number({"eps": "x"}, "eps", 2.0)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert caught.value.code == "SP401"


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"GPT2LM.*LlamaFor.*qwen2 \(Qwen2For.*seqpack_weight_conv") as caught:
        find_converter({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    assert caught.value.code == "SP402"


def test_another_head_on_a_known_family_is_not_that_family() -> None:
    with pytest.raises(ConfigError, match="Qwen2ForSequenceClassification"):
        find_converter({"architectures": ["Qwen2ForSequenceClassification"], "model_type": "qwen2"})


def test_model_type_decides_where_architectures_are_absent() -> None:
    assert find_converter({"model_type": "qwen2"}).architectures == ("Qwen2ForCausalLM",)


@pytest.mark.parametrize("named", ["LlamaForCausalLM", ["LlamaForCausalLM"]])
def test_architectures_are_a_list_or_one_name(named: object) -> None:
    assert find_converter({"architectures": named}).name == "llama"


@pytest.mark.parametrize("named", [3, [None]])
def test_architectures_that_are_no_names(named: object) -> None:
    with pytest.raises(ConfigError) as caught:
        find_converter({"architectures": named})
    assert caught.value.code == "SP402"
