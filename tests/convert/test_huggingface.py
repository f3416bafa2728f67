"""Reading and writing model directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqpack.convert.copying import fill
from seqpack.convert.dtypes import BY_TORCH
from seqpack.convert.huggingface import create_safetensors, read_places
from seqpack.convert.plan import make_plan
from seqpack.convert.tensors import Key, Piece, Tensor, matrix
from seqpack.core.errors import CheckpointError

from .conftest import make_model, same_bytes


def written(folder: Path, tensors: dict[str, torch.Tensor], max_shard_bytes: int = 10**6) -> Path:
    """Tensors as safetensors writes them, copied into a directory as we write them."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "in/model.safetensors")
    named = [
        Tensor(Key("", name), tuple(t.shape), (Piece(name, 0, 0, *matrix(tuple(t.shape)), 0, 0),))
        for name, t in tensors.items()
    ]
    dtypes = {Key("", name): BY_TORCH[str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()}
    draft = create_safetensors(folder / "out", named, dtypes, max_shard_bytes=max_shard_bytes)
    places = {Key("", name): place for name, place in read_places(folder / "in").items()}
    draft.close(fill(make_plan(named, named), places, draft.places))
    return folder / "out"


def test_the_safetensors_package_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, dtype=torch.bfloat16),
        "double": torch.randn(2, 5, dtype=torch.float64),
        "view": torch.randn(4, 6).t(),
        "float16": torch.tensor([float("nan"), -0.0, 65504.0], dtype=torch.float16),
        "stack": torch.randn(2, 3, 4),
    }
    loaded = load_file(written(tmp_path, tensors) / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(same_bytes(loaded[name], tensor) for name, tensor in tensors.items())


def test_shards_keep_to_the_size_unless_one_tensor_is_larger(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(10), "b": torch.ones(15), "c": torch.ones(100), "d": torch.ones(1)}
    folder = written(tmp_path, tensors, max_shard_bytes=100)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 126
    assert index["weight_map"] == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00001-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }
    assert {name: place.shape for name, place in read_places(folder).items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }


def test_a_file_without_its_header_cannot_be_read(tmp_path: Path) -> None:
    tensor = Tensor(Key("", "a"), (2,), (Piece("a", 0, 0, 2, 1, 0, 0),))
    create_safetensors(tmp_path, [tensor], {tensor.key: BY_TORCH["float32"]}, max_shard_bytes=100)
    assert code_of(tmp_path) == "SP401"


def code_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_places(folder)
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
