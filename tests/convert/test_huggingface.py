"""Reading and writing model directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqpack.convert.huggingface import HuggingFaceModel, same_bytes, write_safetensors
from seqpack.core.errors import CheckpointError

from .conftest import InMemory, make_model


def ignore(n: int) -> None:
    pass


def test_the_safetensors_package_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, dtype=torch.bfloat16),
        "double": torch.randn(2, 5, dtype=torch.float64),
        "view": torch.randn(4, 6).t(),
        "float16": torch.tensor([float("nan"), -0.0, 65504.0], dtype=torch.float16),
    }
    write_safetensors(InMemory(**tensors), tmp_path, max_shard_bytes=10**6, advance=ignore)
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(same_bytes(loaded[name], tensor) for name, tensor in tensors.items())


def test_shards_keep_to_the_size_unless_one_tensor_is_larger(tmp_path: Path) -> None:
    source = InMemory(a=torch.ones(10), b=torch.ones(15), c=torch.ones(100), d=torch.ones(1))
    write_safetensors(source, tmp_path, max_shard_bytes=100, advance=ignore)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 126
    assert index["weight_map"] == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00001-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }
    assert HuggingFaceModel(tmp_path).specs == source.specs


def test_same_bytes_is_stricter_than_equality() -> None:
    nan = torch.tensor([float("nan")])
    assert same_bytes(nan, nan.clone())
    assert not same_bytes(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bytes(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert not same_bytes(torch.zeros(2), torch.zeros(1, 2))


def code_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        HuggingFaceModel(folder)
    return caught.value.code


def test_damage(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", shard="10KB")
    assert len(list(model.glob("*.safetensors"))) > 2
    shard = sorted(model.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    assert code_of(model) == "SP401"
    shard.write_bytes(b"")
    assert code_of(model) == "SP401"
    shard.unlink()
    assert code_of(model) == "SP401"
    shard.write_bytes(whole)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra"] = shard.name
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert code_of(model) == "SP401"
    (model / "model.safetensors.index.json").write_text("{}")
    assert code_of(model) == "SP401"


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert code_of(tmp_path) == "SP401"


def test_no_weights_and_quantized_weights(tmp_path: Path) -> None:
    assert code_of(tmp_path) == "SP401"
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert code_of(tmp_path) == "SP404"
