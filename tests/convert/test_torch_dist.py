"""The distributed layout ``torch_dist``: what torch reads in it, round trips, and faults."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from seqpack.convert import dist_layout, stacks
from seqpack.convert.convert import convert_weights
from seqpack.convert.dcp import Box, Metadata, read_metadata, write_metadata
from seqpack.convert.dist_find import holding
from seqpack.convert.families import Join
from seqpack.convert.mcore import Parameter
from seqpack.convert.tensors import Piece
from seqpack.core.errors import CheckpointError, ConfigError, SeqpackError

from .conftest import SIZES, make_model, options, same_bytes, tree

ITERATION = "iter_0000001"
FC1 = "decoder.layers.mlp.linear_fc1.weight"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"tie_word_embeddings": False}),
    "qwen3_moe": ("qwen3_moe", {"tie_word_embeddings": False}),
    "some experts": ("qwen3_moe", {"tie_word_embeddings": False, "mlp_only_layers": [1]}),
    "mixtral": ("mixtral", {}),
}


@pytest.fixture(autouse=True)
def small_chunks_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even tiny parameters are cut into blocks of rows, and the checkpoint into files."""
    monkeypatch.setattr(stacks, "CHUNK_ELEMENTS", 700)
    monkeypatch.setattr(dist_layout, "FILE_BYTES", 20_000)


@pytest.fixture(autouse=True)
def without_a_process_group() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def model(name: str) -> Path:
        if name not in made:
            family, sizes = MODELS[name]
            dtype = torch.bfloat16 if "tied" in name else torch.float32
            folder = tmp_path_factory.mktemp("models") / "model"
            made[name] = make_model(folder, family, dtype=dtype, num_hidden_layers=3, **sizes)
        return made[name]

    return model


def assert_same(model: Path, other: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (model, other))
    assert before.keys() == after.keys()
    assert [name for name in before if not same_bytes(before[name], after[name])] == []


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    """Every parameter, whole, as torch.distributed.checkpoint reads it on its own."""
    described = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in described.items()
        if isinstance(each, TensorStorageMetadata)
    }
    load(state, checkpoint_id=folder, no_dist=True)
    return state


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(models: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    """From one layout to the other and back; what comes back from each is what was there."""
    model = models(name)
    split = {"tp": 2, "pp": 3, **({"ep": 2} if "num_experts" in (model / "config.json").read_text() else {})}
    assert convert_weights(options(model, "mcore", tmp_path / "one", ckpt_format="torch_dist")).verified
    assert convert_weights(options(tmp_path / "one", "mcore", tmp_path / "ranks", **split)).verified
    assert convert_weights(options(tmp_path / "ranks", "mcore", tmp_path / "two", ckpt_format="torch_dist")).verified
    for folder in ("one", "ranks", "two"):
        assert convert_weights(options(tmp_path / folder, "hf", tmp_path / "back", overwrite=True)).verified
        assert_same(model, tmp_path / "back")


def test_torch_reads_it(models: Callable[[str], Path], tmp_path: Path) -> None:
    model = models("llama tied")
    convert_weights(options(model, "mcore", tmp_path / "out", ckpt_format="torch_dist"))
    folder = tmp_path / "out" / ITERATION
    state, weights = loaded(folder), load_file(model / "model.safetensors")
    layers = range(3)

    def of_layers(name: str) -> torch.Tensor:
        return torch.stack([weights[f"model.layers.{layer}.{name}.weight"] for layer in layers])

    q, k, v = (of_layers(f"self_attn.{name}_proj") for name in "qkv")
    # two groups of two heads each share a head of k and one of v; a head has 10 rows
    qkv = [q[:, :20], k[:, :10], v[:, :10], q[:, 20:], k[:, 10:], v[:, 10:]]
    prefix = "decoder.layers."
    expected = {
        "embedding.word_embeddings.weight": weights["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": weights["model.norm.weight"],
        f"{prefix}self_attention.linear_qkv.weight": torch.cat(qkv, 1),
        f"{prefix}self_attention.linear_qkv.layer_norm_weight": of_layers("input_layernorm"),
        f"{prefix}self_attention.linear_proj.weight": of_layers("self_attn.o_proj"),
        f"{prefix}mlp.linear_fc1.layer_norm_weight": of_layers("post_attention_layernorm"),
        f"{prefix}mlp.linear_fc1.weight": torch.cat([of_layers("mlp.gate_proj"), of_layers("mlp.up_proj")], 1),
        f"{prefix}mlp.linear_fc2.weight": of_layers("mlp.down_proj"),
    }
    assert state.keys() == expected.keys()
    assert [name for name in expected if not same_bytes(state[name], expected[name])] == []
    with torch.serialization.safe_globals([Namespace]):
        common = torch.load(folder / "common.pt", weights_only=True)
    assert common.keys() == {"args", "checkpoint_version", "iteration"}
    assert (common["iteration"], common["args"].ckpt_format) == (1, "torch_dist")
    assert json.loads((folder / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    assert len(list(folder.glob("__0_*.distcp"))) > 1


def test_torch_reads_experts(models: Callable[[str], Path], tmp_path: Path) -> None:
    model = models("mixtral")
    convert_weights(options(model, "mcore", tmp_path / "out", ckpt_format="torch_dist"))
    state, weights = loaded(tmp_path / "out" / ITERATION), load_file(model / "model.safetensors")
    fc1 = state["decoder.layers.mlp.experts.experts.linear_fc1.weight"]
    assert fc1.shape == (3, 4, 2 * SIZES["intermediate_size"], SIZES["hidden_size"])
    expert = "model.layers.1.block_sparse_moe.experts.2."
    assert same_bytes(fc1[1, 2], torch.cat([weights[f"{expert}w1.weight"], weights[f"{expert}w3.weight"]]))
    norms = [state[f"decoder.layers.{name}"] for name in (stacks.NORM, stacks.FUSED_NORM)]
    assert same_bytes(norms[0][2], weights["model.layers.2.post_attention_layernorm.weight"])
    assert same_bytes(*norms)


@pytest.mark.parametrize(
    ("name", "states"),
    [
        (
            "qwen3",
            {
                "decoder.layers.self_attention.linear_qkv._extra_state/shard_2_3",
                "decoder.layers.self_attention.core_attention._extra_state/shard_0_3",
                "decoder.layers.self_attention.q_layernorm._extra_state/shard_1_3",
                "decoder.layers.mlp.linear_fc2._extra_state/shard_0_3",
                "decoder.final_layernorm._extra_state/shard_0_1",
            },
        ),
        ("qwen3_moe", {"decoder.layers.mlp.experts.experts.linear_fc1._extra_state/shard_2.3_3.4"}),
        (
            "some experts",
            {
                "decoder.layers.0.mlp.experts.experts.linear_fc2._extra_state/shard_1_4",
                "decoder.layers.1.mlp.linear_fc1._extra_state/shard_0_1",
            },
        ),
    ],
)
def test_states_that_loaders_ask_for(
    models: Callable[[str], Path], name: str, states: set[str], tmp_path: Path
) -> None:
    convert_weights(options(models(name), "mcore", tmp_path / "out", ckpt_format="torch_dist"))
    folder = tmp_path / "out" / ITERATION
    described = FileSystemReader(folder).read_metadata().state_dict_metadata
    blobs = {key for key, each in described.items() if isinstance(each, BytesStorageMetadata)}
    assert states <= blobs
    assert len(blobs) == {"qwen3": 3 * 7 + 1, "qwen3_moe": 3 * (6 + 2 * 4) + 1}.get(name, len(blobs))
    wanted: dict[str, Any] = dict.fromkeys(states)
    load(wanted, checkpoint_id=folder, no_dist=True)
    assert all(value == [None] for value in wanted.values())


def test_layers_that_differ_have_parameters_of_their_own(models: Callable[[str], Path], tmp_path: Path) -> None:
    convert_weights(options(models("some experts"), "mcore", tmp_path / "out", ckpt_format="torch_dist"))
    folder = tmp_path / "out" / ITERATION
    state = loaded(folder)
    assert state["decoder.layers.1.mlp.linear_fc1.weight"].shape == (80, 24)
    assert state["decoder.layers.2.mlp.experts.experts.linear_fc1.weight"].shape == (4, 32, 24)
    with torch.serialization.safe_globals([Namespace]):
        common = torch.load(folder / "common.pt", weights_only=True)
    assert common["content_metadata"] == {"non_homogeneous_layers": True}


def test_sizes_of_ranks_are_kept_for_training(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out", ckpt_format="torch_dist", tp=2, pp=2, release=True))
    with torch.serialization.safe_globals([Namespace]):
        args = torch.load(tmp_path / "out/release/common.pt", weights_only=True)["args"]
    assert (args.tensor_model_parallel_size, args.pipeline_model_parallel_size, args.padded_vocab_size) == (2, 2, 62)
    report = convert_weights(options(tmp_path / "out", "hf", tmp_path / "back"))
    assert report.source_split == "TP 1, PP 1, EP 1"
    assert_same(llama, tmp_path / "back")


class Cut:
    """A tensor that is saved in chunks: each layer apart, and ``parts`` along one dimension."""

    def __init__(self, whole: torch.Tensor, parts: int, dimension: int) -> None:
        self.whole = whole
        length = whole.shape[dimension] // parts
        self.boxes = []
        for layer in range(whole.shape[0]):
            for part in range(parts):
                offsets, sizes = [0] * whole.dim(), list(whole.shape)
                offsets[0], sizes[0] = layer, 1
                offsets[dimension], sizes[dimension] = part * length, length
                self.boxes.append((torch.Size(offsets), torch.Size(sizes)))

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        properties = TensorProperties.create_from_tensor(self.whole)
        return [
            WriteItem(
                MetadataIndex(fqn, offsets),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(ChunkStorageMetadata(offsets, sizes), properties, self.whole.size()),
            )
            for offsets, sizes in self.boxes
        ]

    def chunk(self, offsets: torch.Size) -> torch.Tensor:
        sizes = dict(self.boxes)[offsets]
        return self.whole[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]


class CutPlanner(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Any:
        value = self.state_dict[index.fqn]
        return value.chunk(index.offset) if isinstance(value, Cut) else super().lookup_object(index)


def trained(folder: Path, model: Path, parts: int, **extra: torch.Tensor) -> Path:
    """A checkpoint of a run over ``parts`` tensor-parallel ranks as torch saves it, with a state of the optimizer.

    ``parts`` 0: each parameter is one chunk. Gives the folder of the iteration.
    """
    convert_weights(options(model, "mcore", folder / "mcore", ckpt_format="torch_dist"))
    iteration = folder / "mcore" / ITERATION
    state: dict[str, Any] = {
        f"optimizer.state.exp_avg.{FC1}": torch.ones(3, 5),
        "rng_state/shard_0_1": io.BytesIO(b"random"),
    }
    for name, tensor in (loaded(iteration) | extra).items():
        is_matrix = name.startswith("decoder.layers") and tensor.dim() > 2
        dimension = -1 if name.endswith(("linear_proj.weight", "linear_fc2.weight")) else -2
        state[name] = Cut(tensor, parts, dimension % tensor.dim()) if is_matrix and parts else tensor
    for path in [iteration / ".metadata", *iteration.glob("*.distcp")]:
        path.unlink()
    save(
        state,
        storage_writer=FileSystemWriter(iteration, single_file_per_rank=False),
        no_dist=True,
        planner=CutPlanner(flatten_state_dict=False),
    )
    return iteration


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_what_torch_saves_is_read(models: Callable[[str], Path], parts: int, tmp_path: Path) -> None:
    trained(tmp_path, models("qwen2"), parts)
    report = convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back"))
    assert report.verified
    assert any("left out optimizer, rng_state" in note for note in report.notes)
    assert_same(models("qwen2"), tmp_path / "back")


def test_a_tied_head_that_was_saved_is_compared(models: Callable[[str], Path], tmp_path: Path) -> None:
    embedding = load_file(models("qwen2") / "model.safetensors")["model.embed_tokens.weight"]
    extra = {"output_layer.weight": embedding.clone()}
    trained(tmp_path / "equal", models("qwen2"), 0, **extra)
    convert_weights(options(tmp_path / "equal/mcore", "hf", tmp_path / "back"))
    assert_same(models("qwen2"), tmp_path / "back")
    extra["output_layer.weight"][3, 1] += 1
    trained(tmp_path / "other", models("qwen2"), 0, **extra)
    assert error_of(tmp_path / "other/mcore").code == "SP405"


@pytest.fixture
def checkpoint(llama: Path, tmp_path: Path) -> Path:
    convert_weights(options(llama, "mcore", tmp_path / "mcore", ckpt_format="torch_dist"))
    return tmp_path / "mcore"


def error_of(checkpoint: Path) -> SeqpackError:
    """The error of a conversion, which must not leave anything behind."""
    before = tree(checkpoint.parent)
    with pytest.raises(SeqpackError) as caught:
        convert_weights(options(checkpoint, "hf", checkpoint.parent / "back"))
    assert tree(checkpoint.parent) == before
    assert caught.value.help
    return caught.value


@pytest.mark.parametrize("name", ["__0_1.distcp", ".metadata", "common.pt", "metadata.json"])
def test_a_file_that_is_missing(checkpoint: Path, name: str) -> None:
    (checkpoint / ITERATION / name).unlink()
    error = error_of(checkpoint)
    assert (error.code, error.exit_code) == ("SP401", 3)
    assert name in error.message


@pytest.mark.parametrize("name", ["__0_1.distcp", ".metadata", "common.pt", "metadata.json"])
@pytest.mark.parametrize("keep", [0.99, 0.5, 0])
def test_a_file_that_was_cut(checkpoint: Path, name: str, keep: float) -> None:
    path = checkpoint / ITERATION / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    error = error_of(checkpoint)
    assert (error.code, error.exit_code) == ("SP401", 3)
    assert name in error.message


def test_a_chunk_that_is_no_archive(checkpoint: Path) -> None:
    folder = checkpoint / ITERATION
    stream = next(iter(read_metadata(folder / ".metadata").tensors[FC1].parts.values()))
    with (folder / stream.file).open("r+b") as file:
        file.seek(stream.offset + stream.length - 22)
        file.write(b"xxxx")
    error = error_of(checkpoint)
    assert error.code == "SP401"
    assert stream.file in error.message


def change_metadata(checkpoint: Path, change: Callable[[Metadata], None]) -> None:
    path = checkpoint / ITERATION / ".metadata"
    metadata = read_metadata(path)
    change(metadata)
    write_metadata(path, metadata)


def test_parameters_that_are_left_over_or_missing_are_listed(checkpoint: Path) -> None:
    def exchange(metadata: Metadata) -> None:
        metadata.tensors["decoder.layers.mlp.adapter.weight"] = metadata.tensors.pop(FC1)

    change_metadata(checkpoint, exchange)
    error = error_of(checkpoint)
    assert (error.code, error.exit_code) == ("SP403", 3)
    assert FC1 in error.message and "mlp.adapter.weight[1, 0, 0]" in error.message


def test_a_chunk_that_is_missing(checkpoint: Path) -> None:
    change_metadata(checkpoint, lambda metadata: metadata.tensors[FC1].parts.popitem() and None)
    error = error_of(checkpoint)
    assert error.code == "SP401"
    assert FC1 in error.message and "whole" in error.message


def test_a_model_of_other_sizes(checkpoint: Path, tmp_path: Path) -> None:
    sizes_and_words: list[tuple[dict[str, Any], str]] = [
        ({"intermediate_size": 44}, f"{FC1} is [2, 80, 24] instead of [2, 88, 24]"),
        ({"num_hidden_layers": 3}, "hold 2 layers"),
    ]
    for sizes, word in sizes_and_words:
        other = make_model(tmp_path / "other", "llama", **sizes)
        with pytest.raises(CheckpointError) as caught:
            convert_weights(options(checkpoint, "hf", tmp_path / "back", hf_dir=other))
        assert caught.value.code == "SP404" and word in caught.value.message


def test_a_parameter_of_whole_numbers(models: Callable[[str], Path], tmp_path: Path) -> None:
    extra = {"decoder.layers.mlp.count": torch.zeros(3, dtype=torch.int32)}
    trained(tmp_path, models("qwen2"), 0, **extra)
    error = error_of(tmp_path / "mcore")
    assert error.code == "SP404" and "decoder.layers.mlp.count" in error.message


def test_layers_that_do_nothing_have_no_place(llama: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="--noop-layers") as caught:
        convert_weights(options(llama, "mcore", tmp_path / "out", ckpt_format="torch_dist", noop_layers="2"))
    assert (caught.value.code, tree(tmp_path)) == ("SP414", before)


def test_another_layout_with_such_a_file(checkpoint: Path) -> None:
    (checkpoint / ITERATION / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    error = error_of(checkpoint)
    assert (error.code, error.exit_code) == ("SP406", 2)
    assert "zarr" in error.message


def test_verification_looks_into_the_files(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is written to the wrong place is found, and nothing is published."""
    add = dist_layout._Writer.add

    def displaced(writer: Any, tensor: Any, dtype: Any) -> Any:
        place = add(writer, tensor, dtype)
        if tensor.key.name != f"{FC1}[1, 0, 0]":
            return place
        return dataclasses.replace(place, offset=place.offset - 2)

    monkeypatch.setattr(dist_layout._Writer, "add", displaced)
    before = tree(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        convert_weights(options(llama, "mcore", tmp_path / "out", ckpt_format="torch_dist"))
    assert (caught.value.code, tree(tmp_path)) == ("SP408", before)


def test_pieces_that_are_neither_rows_nor_columns_cannot_be_verified() -> None:
    strips = (Piece("a", 0, 0, 2, 4, 0, 0),)
    stack = stacks.Stack("b", (), {(): Parameter(Join.COPY, strips, 2, 4, is_vector=False)})
    boxes = [Box((0, 0), (1, 4)), Box((1, 0), (1, 2)), Box((1, 2), (1, 2))]
    assert stack.is_tiled(boxes)
    with pytest.raises(ConfigError, match="rows and columns") as caught:
        holding(stack, boxes, (), np.arange(2))
    assert caught.value.code == "SP406"


@pytest.mark.parametrize(
    "boxes",
    [
        [Box((0, 0), (1, 4))],
        [Box((0, 0), (2, 4)), Box((1, 0), (1, 4))],
        [Box((0, 0), (2, 2)), Box((0, 1), (2, 2))],
    ],
)
def test_chunks_that_are_not_the_whole(boxes: list[Box]) -> None:
    strips = (Piece("a", 0, 0, 2, 4, 0, 0),)
    stack = stacks.Stack("b", (), {(): Parameter(Join.COPY, strips, 2, 4, is_vector=False)})
    assert not stack.is_tiled(boxes)
