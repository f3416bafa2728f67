"""A model whose weights are in a Megatron checkpoint: the same as that of the directory it was converted from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.convert.convert import convert_weights
from seqpack.convert.request import Request
from seqpack.core.errors import ConfigError, SeqpackError
from seqpack.models.checkpoint_source import CheckpointSource
from seqpack.models.load import build_model, resolve_model
from seqpack.models.roles import FAMILIES
from seqpack.models.sources import FileSource
from seqpack.options.convert import ConvertOptions, MegatronOptions
from seqpack.runtime.device import select_device

from .conftest import VOCAB_SIZE, SaveModel

SPLITS: dict[str, dict[str, Any]] = {
    "ranks": {"tp": 2, "pp": 2},
    "torch_dist": {"ckpt_format": "torch_dist"},
}


def converted(directory: Path, **split: Any) -> Path:
    """A checkpoint beside the directory, of the same weights in float32."""
    output = directory.with_name(f"{directory.name}-mcore")
    options = ConvertOptions(source=directory, to="mcore", output=output, params_dtype="fp32")
    convert_weights(Request(options, MegatronOptions(**split)))
    return output


@pytest.mark.parametrize("layout", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model(save_model: SaveModel, family: str, layout: str) -> None:
    directory = save_model(family, tie_word_embeddings=family == "qwen2")
    checkpoint = converted(directory, **SPLITS[layout])
    models = []
    for place in (directory, checkpoint):
        spec = resolve_model(str(place), vocab_size=VOCAB_SIZE)
        assert (spec.name, spec.random_weights) == (str(place), False)
        models.append(build_model(spec, dtype=torch.float32, backend=select_device("cpu")))
    wanted, found = (dict(model.named_parameters()) | dict(model.named_buffers()) for model in models)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


@pytest.mark.parametrize("layout", SPLITS)
def test_parts(save_model: SaveModel, layout: str) -> None:
    directory = save_model("qwen2", tie_word_embeddings=True)
    checkpoint = converted(directory, **SPLITS[layout])
    source, files = CheckpointSource(checkpoint, checkpoint / "hf"), FileSource(directory)
    cases = {
        "model.embed_tokens.weight": (slice(90, 130), slice(3, 9)),
        "model.layers.1.self_attn.q_proj.weight": (slice(5, 20), slice(0, 32)),
        "model.layers.1.self_attn.k_proj.bias": (slice(6, 10),),
        "model.layers.0.mlp.down_proj.weight": (slice(1, 30), slice(20, 30)),
        "model.layers.0.mlp.up_proj.weight": (slice(47, 48), slice(0, 1)),
    }
    for name, where in cases.items():
        assert source.shape(name) == files.shape(name)
        assert torch.equal(source.read(name, where), files.read(name, where).float()), name
    assert source.shape("lm_head.weight") is None


def test_random_weights_need_only_the_config(save_model: SaveModel) -> None:
    checkpoint = converted(save_model("llama"))
    (checkpoint / "iter_0000001/mp_rank_00/model_optim_rng.pt").write_bytes(b"")
    spec = resolve_model(str(checkpoint), vocab_size=VOCAB_SIZE, random_init=True)
    assert spec.random_weights
    build_model(spec, dtype=torch.float32, backend=select_device("cpu"))
    with pytest.raises(SeqpackError) as caught:
        build_model(
            dataclasses.replace(spec, random_weights=False, checkpoint=checkpoint),
            dtype=torch.float32,
            backend=select_device("cpu"),
        )
    assert caught.value.code == "SP401"


def test_ranks_that_disagree(save_model: SaveModel) -> None:
    checkpoint = converted(save_model("llama"), tp=2)
    path = checkpoint / "iter_0000001/mp_rank_01/model_optim_rng.pt"
    state = torch.load(path, weights_only=False)
    state["model"]["decoder.final_layernorm.weight"][2] += 1
    torch.save(state, path)
    with pytest.raises(SeqpackError) as caught:
        CheckpointSource(checkpoint, checkpoint / "hf")
    assert caught.value.code == "SP411"


def test_a_checkpoint_without_a_config(save_model: SaveModel) -> None:
    """It may be in the directory of the tokenizer: checkpoints of other programs hold none."""
    directory = save_model("llama")
    checkpoint = converted(directory)
    (checkpoint / "hf/config.json").unlink()
    spec = resolve_model(str(checkpoint), vocab_size=VOCAB_SIZE, config_dir=directory)
    assert (spec.directory, spec.checkpoint) == (directory, checkpoint)
    found = build_model(spec, dtype=torch.float32, backend=select_device("cpu"))
    wanted = FileSource(directory).read("model.norm.weight", (slice(0, 32),)).float()
    assert torch.equal(found.model.norm.weight, wanted)
    for place in (checkpoint, checkpoint / "iter_0000001"):
        with pytest.raises(ConfigError, match=r"hf/config\.json") as caught:
            resolve_model(str(place), vocab_size=VOCAB_SIZE)
        assert caught.value.code == "SP206"
        assert "--tokenizer" in str(caught.value.help)
