"""Which models can be cut among how many ranks; that cutting changes no number is tested with training."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from seqpack.core.errors import ConfigError
from seqpack.models.expert_parallel import check_expert_parallel
from seqpack.models.roles import Role
from seqpack.models.tensor_parallel import check_tensor_parallel, cut_dimension

from .conftest import EXTRAS, TINY


def config(family: str, **settings: Any) -> Any:
    return AutoConfig.for_model(family, **{**TINY, **EXTRAS.get(family, {}), **settings})


@pytest.mark.parametrize(
    ("family", "settings", "size", "message"),
    [
        ("gemma", {}, 2, "family 'gemma'"),
        ("qwen2", {"num_attention_heads": 6, "num_key_value_heads": 2}, 4, "6 attention heads"),
        ("qwen2", {"num_attention_heads": 12, "num_key_value_heads": 3}, 2, "3 key heads"),
        ("llama", {"intermediate_size": 45}, 2, "45 features of the MLP"),
        ("mixtral", {"num_local_experts": 3}, 2, "3 experts"),
        ("qwen3_moe", {"intermediate_size": 45, "mlp_only_layers": [0]}, 2, "45 features of the MLP"),
        ("qwen2", {"vocab_size": 9}, 4, "a vocabulary of 9"),  # 3, 3, 3 and none
    ],
)
def test_models_that_do_not_divide(family: str, settings: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--tensor-model-parallel-size {size}: .*{message}") as raised:
        check_tensor_parallel(config(family, **settings), size)
    assert raised.value.code == "SP610"
    assert raised.value.help


def test_models_that_do() -> None:
    check_tensor_parallel(config("gemma"), 1)
    check_tensor_parallel(config("qwen2", num_key_value_heads=1), 4)
    check_tensor_parallel(config("qwen2", vocab_size=199), 4)
    check_tensor_parallel(config("qwen3_moe", intermediate_size=45), 2)  # no layer has an MLP of that size
    check_expert_parallel(config("qwen2"), 1, 4)


def test_where_a_parameter_is_cut() -> None:
    few = config("qwen2", num_key_value_heads=2)
    assert cut_dimension(Role.Q, 2, few, 4) == 0
    assert cut_dimension(Role.K, 2, few, 4) is None
    assert cut_dimension(Role.K, 2, few, 2) == 0
    assert cut_dimension(Role.O, 2, few, 4) == 1
    assert cut_dimension(Role.O, 1, few, 4) is None  # a bias is added once, after the sum
    assert cut_dimension(Role.MLP_NORM, 1, few, 4) is None
    assert cut_dimension(Role.HEAD, 2, few, 4) == 0
