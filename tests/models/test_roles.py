from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from seqpack.models.roles import FAMILIES, LINEAR, ROLES, Role, modules_of, role_of

from .conftest import EXTRAS, TINY


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_role_and_every_role_a_parameter(family: str) -> None:
    mixed = {"mlp_only_layers": [1]} if family == "qwen3_moe" else {}
    config = AutoConfig.for_model(family, **{**TINY, **EXTRAS.get(family, {}), **mixed}, tie_word_embeddings=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = {name: role_of(family, name) for name, _ in model.named_parameters()}
    assert {role for role, _ in found.values()} == set(ROLES[family])
    assert {layer for _, layer in found.values()} == {None, 0, 1}
    modules = dict(model.named_modules())
    linear = [name for name in modules_of(family, LINEAR, 1) if name in modules]
    assert all(isinstance(modules[name], torch.nn.Linear) for name in linear)
    assert "model.layers.0.self_attn.q_proj" in linear


def test_an_unknown_parameter() -> None:
    assert role_of("qwen2", "model.layers.12.mlp.down_proj.weight") == (Role.DOWN, 12)
    with pytest.raises(KeyError, match="rotary"):
        role_of("qwen2", "model.rotary.weight")
