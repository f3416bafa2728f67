"""Families outside the tested list: accepted if a tiny copy proves it, else refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.errors import ConfigError
from seqpack.models.roles import FAMILIES
from seqpack.models.self_check import self_check
from seqpack.models.tiny_copy import tiny_copies
from seqpack.train.loss import chunked_cross_entropy

WIDE = {
    "vocab_size": 5000,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def check(family: str, **settings: Any) -> None:
    self_check(AutoConfig.for_model(family, **{**WIDE, **settings}), cpu_flash_attention, chunked_cross_entropy)


@pytest.mark.parametrize("family", [*FAMILIES, "olmo2", "phi3", "gemma3_text", "starcoder2"])
def test_families_that_pass(family: str) -> None:
    state = torch.random.get_rng_state()
    check(family, **({"use_bias": False} if family == "starcoder2" else {}))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("gemma2", {"head_dim": 64, "final_logit_softcapping": None}, "attention has a soft cap"),
        ("mamba", {}, "logits in a pack are not those"),  # its state runs on from one sample into the next
        ("granite", {"logits_scaling": 8.0}, "output layer is more than one matrix"),
        ("phi", {}, "output layer is more than one matrix"),  # its output layer has a bias
    ],
)
def test_families_that_are_refused(family: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        check(family, **settings)
    assert raised.value.code == "SP202"
    assert family in raised.value.message


def test_an_attention_that_leaks_is_seen() -> None:
    def blind(*qkv: torch.Tensor, cu_q: Any, cu_k: Any, **rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return cpu_flash_attention(*qkv, cu_q=cu_q[[0, -1]], cu_k=cu_k[[0, -1]], **rest)

    with pytest.raises(ConfigError, match="not those of a sample alone"):
        self_check(AutoConfig.for_model("olmo2", **WIDE), blind, chunked_cross_entropy)


def test_a_tiny_copy_keeps_one_layer_of_each_kind() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = AutoConfig.for_model("gemma3_text", **{**WIDE, "num_hidden_layers": 6}, layer_types=kinds)
    tiny, wide = tiny_copies(config)
    assert tiny.layer_types == wide.layer_types == ["sliding_attention", "full_attention"]
    assert (tiny.hidden_size, wide.hidden_size, config.hidden_size) == (64, 512, 512)
    assert tiny.sliding_window < 14
