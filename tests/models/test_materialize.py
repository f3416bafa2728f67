"""Models get their weights piece by piece: the same as transformers loads whole, on any number of ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from transformers import AutoModelForCausalLM

from seqpack.core.errors import CheckpointError
from seqpack.models.fill import fill
from seqpack.models.load import ModelSpec, build_model, resolve_model
from seqpack.models.lora import LoraSettings, add_lora
from seqpack.models.materialize import empty_model, materialize
from seqpack.models.roles import FAMILIES
from seqpack.models.sources import FileSource, MemorySource, RandomSource, TensorSource, Where, file_source
from seqpack.runtime.device import select_device
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.sharding import shard
from tests.distributed import run_ranks

from .conftest import VOCAB_SIZE, SaveModel

CPU = select_device("cpu")
WIDE = {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 4, "vocab_size": 8192}


class Counted:
    """A source that counts the numbers that are read from it."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self.numbers = 0

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._source.shape(name)

    def read(self, name: str, where: Where) -> torch.Tensor:
        self.numbers += math.prod(part.stop - part.start for part in where)
        return self._source.read(name, where)


def spec_of(directory: Path, **settings: Any) -> ModelSpec:
    return resolve_model(str(directory), vocab_size=VOCAB_SIZE, **settings)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_loads(save_model: SaveModel, family: str, tied: bool) -> None:
    directory = save_model(family, tie_word_embeddings=tied)
    wanted = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    found = build_model(spec_of(directory), dtype=torch.float64, backend=CPU)
    theirs = dict(wanted.named_parameters()) | dict(wanted.named_buffers())
    ours = dict(found.named_parameters()) | dict(found.named_buffers())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {ours[name].dtype for name, _ in found.named_buffers()} == {torch.float32}
    assert (found.lm_head.weight is found.model.embed_tokens.weight) is tied
    assert found.training


def test_several_files_and_stretched_positions(save_model: SaveModel) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    directory = save_model("llama", rope_parameters={**rope, "original_max_position_embeddings": 64})
    wanted = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    wanted.save_pretrained(directory, max_shard_size="20KB")
    (directory / "model.safetensors").unlink()
    assert len(list(directory.glob("*.safetensors"))) > 2
    found = build_model(spec_of(directory), dtype=torch.float64, backend=CPU)
    assert all(torch.equal(*pair) for pair in zip(found.parameters(), wanted.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(found.buffers(), wanted.buffers(), strict=True))


def test_files_with_other_names_are_loaded_whole(save_model: SaveModel) -> None:
    """Files of a model without its output layer have no "model." in their names; transformers knows that."""
    directory = save_model("qwen2", tie_word_embeddings=True)
    weights = load_file(directory / "model.safetensors")
    bare = {name.removeprefix("model."): weight for name, weight in weights.items()}
    save_file(bare, directory / "model.safetensors", metadata={"format": "pt"})
    found = build_model(spec_of(directory), dtype=torch.float64, backend=CPU)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, weights[name])


@pytest.mark.parametrize("damage", ["cut", "shape", "index"])
def test_damaged_files(save_model: SaveModel, damage: str) -> None:
    directory = save_model("llama")
    path = directory / "model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "shape":
        weights = load_file(path)
        weights["model.norm.weight"] = torch.zeros(7)
        save_file(weights, path, metadata={"format": "pt"})
    else:
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
        path.unlink()
    with pytest.raises(CheckpointError) as raised:
        build_model(spec_of(directory), dtype=torch.float32, backend=CPU)
    assert raised.value.code == "SP206"
    assert raised.value.help


def test_only_the_wanted_experts_are_read(save_model: SaveModel) -> None:
    directory = save_model("mixtral")
    source = file_source(directory, spec_of(directory).config)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = source.read(name, (slice(0, 4), slice(0, 96), slice(0, 32)))
    assert whole.shape == source.shape(name) == (4, 96, 32)
    files = Counted(FileSource(directory))
    source._files = files  # type: ignore[attr-defined]
    part = source.read(name, (slice(1, 3), slice(40, 60), slice(5, 9)))
    assert torch.equal(part, whole[1:3, 40:60, 5:9])
    assert files.numbers == part.numel()


def test_random_weights_are_distributed_as_transformers_draws_them() -> None:
    for family in FAMILIES:
        spec = resolve_model(f"tiny:{family}", vocab_size=500)
        ours = build_model(spec, dtype=torch.float32, backend=CPU, seed=3)
        torch.manual_seed(0)
        theirs = dict(AutoModelForCausalLM.from_config(spec.config).named_parameters())
        for name, parameter in ours.named_parameters():
            assert parameter.mean().item() == pytest.approx(theirs[name].mean().item(), abs=0.02), name
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1, abs=1e-6), name
    different = build_model(spec, dtype=torch.float32, backend=CPU, seed=4)
    first, second = (model.model.layers[0].self_attn.q_proj.weight for model in (ours, different))
    assert not torch.equal(first, second)
    assert not torch.equal(first, ours.model.layers[1].self_attn.q_proj.weight)


def test_random_weights_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    build_model(resolve_model("tiny:qwen2", vocab_size=100), dtype=torch.float32, backend=CPU)
    assert torch.equal(torch.rand(3), wanted)


def pieces_of(ranks: Ranks, directory: Path, random: bool, replicate: int) -> tuple[dict[str, Any], int, bool]:
    """Whole weights put together from all ranks, what this rank read, and whether what is shared stayed so."""
    spec = spec_of(directory, random_init=random)
    model = empty_model(spec, torch.float32)
    add_lora(model, LoraSettings(rank=2, alpha=4.0))
    plan = ParallelPlan.of(ranks.size, dp_replicate=replicate)
    if ranks.size > 1:
        shard(model, plan, plan.mesh("cpu"), torch.float32)
    materialize(model, model, spec, device=CPU.device, dtype=torch.float32, seed=7)
    state = {name: parameter for name, parameter in model.named_parameters() if ".lora_" not in name}
    named = {name.replace(".base.", "."): parameter for name, parameter in state.items()}
    source = RandomSource(empty_model(spec, torch.float32), torch.float32, 7) if random else None
    counted = Counted(source or file_source(directory, spec.config))
    fill(named, counted)
    whole = {
        name: (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().numpy()
        for name, parameter in model.named_parameters()
    }
    return whole, counted.numbers, model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(("size", "replicate", "random"), [(2, 1, False), (4, 2, False), (3, 1, True)])
def test_every_rank_reads_its_part(save_model: SaveModel, size: int, replicate: int, random: bool) -> None:
    directory = save_model("qwen3_moe", tie_word_embeddings=True)
    wanted, numbers, tied = pieces_of(Ranks(), directory, random, 1)
    assert tied
    found = run_ranks(size, pieces_of, directory, random, replicate)
    for whole, read, still_tied in found:
        assert still_tied
        assert whole.keys() == wanted.keys()
        assert all(np.array_equal(whole[name], wanted[name]) for name in wanted)
        # Four experts for three ranks, and rows that do not divide, make some parts larger.
        assert read < 1.5 * numbers * replicate / size
    assert sum(read for _, read, _ in found) == numbers * replicate


def fill_on_mesh(ranks: Ranks) -> bool:
    """Tensors cut along both axes of a mesh, evenly and not, whole on one, and with nothing for some ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    tensors = {f"{rows}x{columns}": torch.arange(rows * columns).reshape(rows, columns).float() for rows in (1, 3, 8)
               for columns in (2, 5)}  # fmt: skip
    placements = ([Shard(0), Shard(1)], [Shard(0), Shard(0)], [Replicate(), Shard(1)], [Shard(1), Replicate()])
    for placed in placements:
        state = {name: distribute_tensor(torch.zeros_like(tensor), mesh, placed) for name, tensor in tensors.items()}
        fill(state, MemorySource(tensors))
        for name, tensor in state.items():
            assert torch.equal(tensor.full_tensor(), tensors[name]), (name, placed)  # type: ignore[attr-defined]
    return True


def test_pieces_on_a_mesh_of_two_axes() -> None:
    assert run_ranks(4, fill_on_mesh) == [True] * 4


def fill_cut_and_sharded(ranks: Ranks) -> bool:
    """Tensor-parallel pieces that FSDP cuts once more, along the same and the other dimension."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    tensors = {"rows": torch.randn(10, 6), "columns": torch.randn(6, 8)}
    for tensor in tensors.values():
        torch.distributed.broadcast(tensor, 0)
    module = torch.nn.Module()
    for name, place in (("rows", Shard(0)), ("columns", Shard(1))):
        empty = distribute_tensor(torch.empty(tensors[name].shape, device="meta"), mesh["tp"], [place])
        module.register_parameter(name, torch.nn.Parameter(empty))
    fully_shard(module, mesh=mesh["dp"])
    module.to_empty(device="cpu")
    fill(dict(module.named_parameters()), MemorySource(tensors))
    for name, parameter in module.named_parameters():
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), tensors[name]), name
    return True


def test_pieces_of_pieces() -> None:
    assert run_ranks(4, fill_cut_and_sharded) == [True] * 4


def growth(ranks: Ranks, directory: Path, sharded: bool) -> int:
    """Most memory that filling the model took, in bytes, beyond what the process had."""
    spec = spec_of(directory)
    model = empty_model(spec, torch.float32)
    if sharded:
        plan = ParallelPlan.of(ranks.size)
        shard(model, plan, plan.mesh("cpu"), torch.float32)
    before = CPU.peak_memory()
    materialize(model, model, spec, device=CPU.device, dtype=torch.float32, seed=0)
    return CPU.peak_memory() - before


def test_memory_of_a_rank_is_that_of_its_part(save_model: SaveModel) -> None:
    directory = save_model("qwen2", **WIDE)
    num_bytes = 4 * resolve_model(str(directory), vocab_size=10).num_parameters()
    assert num_bytes > 40e6
    whole = run_ranks(1, growth, directory, False)[0]
    parts = run_ranks(4, growth, directory, True)
    assert whole > num_bytes
    # A quarter of the weights, the same of the file (which has 8 bytes a number), and something for the mesh.
    assert max(parts) < whole / 2
