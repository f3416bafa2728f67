from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.core.errors import CheckpointError, ConfigError
from seqpack.models.load import build_model, resolve_model
from seqpack.models.roles import FAMILIES
from seqpack.runtime.device import select_device

from .conftest import VOCAB_SIZE, SaveModel


def edit_config(directory: Path, **settings: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("family", FAMILIES)
def test_presets(family: str) -> None:
    spec = resolve_model(f"tiny:{family}", vocab_size=1000, eos_token_id=5, pad_token_id=6)
    assert spec.random_weights
    assert spec.vocab_size == 1024
    assert (spec.config.eos_token_id, spec.config.pad_token_id) == (5, 6)
    model = build_model(spec, dtype=torch.float32, backend=select_device("cpu"), seed=3)
    assert model.training
    assert spec.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    again = build_model(spec, dtype=torch.float32, backend=select_device("cpu"), seed=3)
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)


def test_random_init_keeps_the_configuration_only(save_model: SaveModel) -> None:
    directory = save_model("qwen2")
    (directory / "model.safetensors").unlink()
    spec = resolve_model(str(directory), random_init=True, vocab_size=VOCAB_SIZE)
    assert build_model(spec, dtype=torch.bfloat16, backend=select_device("cpu")).dtype is torch.bfloat16


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="tiny:qwen2, tiny:llama") as raised:
        resolve_model("tiny:gpt", vocab_size=10)
    assert raised.value.code == "SP202"


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_directory_without_a_usable_config(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json") as raised:
        resolve_model(str(tmp_path), vocab_size=10)
    assert raised.value.code == "SP206"


def test_a_run_directory_is_not_the_model_inside_it(tmp_path: Path, save_model: SaveModel) -> None:
    save_model("qwen2").rename(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"did you mean .*model\?"):
        resolve_model(str(tmp_path), vocab_size=10)


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert-of-mine"}')
    with pytest.raises(ConfigError, match="qwen2, llama") as raised:
        resolve_model(str(tmp_path), vocab_size=10)
    assert raised.value.code == "SP202"


@pytest.mark.parametrize(
    ("family", "settings", "named"),
    [
        ("llama", {"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ("llama", {"attn_pdrop": 0.1}, "attn_pdrop 0.1"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantized weights"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
    ],
)
def test_settings_that_packing_cannot_honour(
    save_model: SaveModel, family: str, settings: dict[str, Any], named: str
) -> None:
    directory = save_model(family)
    edit_config(directory, **settings, layer_types=None)
    with pytest.raises(ConfigError, match=named) as raised:
        resolve_model(str(directory), vocab_size=VOCAB_SIZE)
    assert raised.value.code == "SP202"


@pytest.mark.parametrize("used", [True, False])
def test_what_attention_must_be_able_to_do(save_model: SaveModel, used: bool) -> None:
    directory = save_model("qwen2", use_sliding_window=used, sliding_window=8, max_window_layers=1)
    spec = resolve_model(str(directory), vocab_size=VOCAB_SIZE)
    assert (spec.has_window, spec.head_size, spec.grouped_heads) == (used, 8, True)


def test_a_vocabulary_that_is_too_small(save_model: SaveModel) -> None:
    with pytest.raises(ConfigError, match="knows 199 tokens") as raised:
        resolve_model(str(save_model("llama")), vocab_size=VOCAB_SIZE + 1)
    assert raised.value.code == "SP207"


def test_missing_weights_are_not_filled_with_random_ones(save_model: SaveModel) -> None:
    directory = save_model("llama")
    edit_config(directory, num_hidden_layers=3)
    spec = resolve_model(str(directory), vocab_size=VOCAB_SIZE)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2") as raised:
        build_model(spec, dtype=torch.float32, backend=select_device("cpu"))
    assert raised.value.code == "SP206"


def test_a_directory_without_weights(save_model: SaveModel) -> None:
    directory = save_model("llama")
    (directory / "model.safetensors").unlink()
    spec = resolve_model(str(directory), vocab_size=VOCAB_SIZE)
    with pytest.raises(CheckpointError, match="random-init") as raised:
        build_model(spec, dtype=torch.float32, backend=select_device("cpu"))
    assert raised.value.code == "SP206"
