"""The checkpoint as Megatron-LM will read it: names, shapes, args, and what torch.load says."""

from __future__ import annotations

import pickletools
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.convert.convert import convert_weights
from seqpack.convert.layouts import find_checkpoint
from seqpack.convert.torch_layout import StoredRanks
from seqpack.core.errors import CheckpointError, ConfigError

from .conftest import edit_config, make_model, options, tree

RANK_FILE = "iter_0000001/mp_rank_00/model_optim_rng.pt"

# by hand, from the table of names: heads 4, groups 2, head_dim 10, hidden 24, ffn 40, vocab 61
LAYER = {
    "input_layernorm.weight": (24,),
    "self_attention.linear_qkv.weight": (80, 24),
    "self_attention.linear_proj.weight": (24, 40),
    "pre_mlp_layernorm.weight": (24,),
    "mlp.linear_fc1.weight": (80, 24),
    "mlp.linear_fc2.weight": (24, 40),
}
# names that Megatron-LM compares, takes over with --use-checkpoint-args, or with --use-mp-args
# fmt: off
ARGS_OF_MEGATRON = {
    "num_layers", "hidden_size", "num_attention_heads", "add_position_embedding", "tensor_model_parallel_size",
    "pipeline_model_parallel_size", "padded_vocab_size", "ffn_hidden_size", "seq_length", "num_query_groups",
    "group_query_attention", "kv_channels", "max_position_embeddings", "position_embedding_type",
    "use_rotary_position_embeddings", "rotary_base", "rotary_percent", "rotary_interleaved", "add_bias_linear",
    "add_qkv_bias", "squared_relu", "swiglu", "untie_embeddings_and_output_weights", "apply_layernorm_1p",
    "normalization", "apply_query_key_layer_scaling", "attention_dropout", "hidden_dropout", "num_experts",
    "moe_layer_freq", "moe_ffn_hidden_size", "moe_router_topk", "moe_router_pre_softmax", "moe_grouped_gemm",
    "moe_shared_expert_intermediate_size", "ckpt_format", "tokenizer_type", "tokenizer_model",
    "virtual_pipeline_model_parallel_size", "expert_model_parallel_size", "make_vocab_size_divisible_by",
}
# fmt: on


def load_strictly(path: Path) -> dict[str, Any]:
    """As Megatron-LM loads: only tensors, plain values and a Namespace."""
    with torch.serialization.safe_globals([Namespace]):
        state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("qwen2", False), ("llama", True), ("llama", False)])
def test_names_and_shapes_are_those_of_the_table(tmp_path: Path, family: str, tied: bool) -> None:
    source = make_model(tmp_path / "in", family, tie_word_embeddings=tied)
    convert_weights(options(source, "mcore", tmp_path / "out"))
    expected: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (61, 24)}
    for layer in range(2):
        expected |= {f"decoder.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
        if family == "qwen2":
            expected[f"decoder.layers.{layer}.self_attention.linear_qkv.bias"] = (80,)
    expected["decoder.final_layernorm.weight"] = (24,)
    if not tied:
        expected["output_layer.weight"] = (61, 24)
    state = load_strictly(tmp_path / "out" / RANK_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in state["model"].items()} == expected


def test_files_and_head_of_the_checkpoint(qwen: Path, tmp_path: Path) -> None:
    convert_weights(options(qwen, "mcore", tmp_path / "out"))
    small = {"hf/config.json", "hf/generation_config.json", "hf/tokenizer.json"}
    assert tree(tmp_path / "out") == {"latest_checkpointed_iteration.txt", RANK_FILE, "seqpack_convert.json"} | small
    assert (tmp_path / "out/latest_checkpointed_iteration.txt").read_text() == "1"
    state = load_strictly(tmp_path / "out" / RANK_FILE)
    assert list(state) == ["args", "checkpoint_version", "iteration", "model"]
    assert (type(state["model"]), state["checkpoint_version"], state["iteration"]) == (dict, 3.0, 1)


def test_release(qwen: Path, tmp_path: Path) -> None:
    convert_weights(options(qwen, "mcore", tmp_path / "out", release=True))
    assert (tmp_path / "out/latest_checkpointed_iteration.txt").read_text() == "release"
    load_strictly(tmp_path / "out/release/mp_rank_00/model_optim_rng.pt")
    convert_weights(options(tmp_path / "out", "hf", tmp_path / "back"))


def test_the_file_is_an_intact_zip_with_pickle_protocol_2(qwen: Path, tmp_path: Path) -> None:
    convert_weights(options(qwen, "mcore", tmp_path / "模型"))
    with zipfile.ZipFile(tmp_path / "模型" / RANK_FILE) as archive:
        assert archive.testzip() is None
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        opcode, protocol, _ = next(pickletools.genops(archive.read(name)))
    assert (opcode.name, protocol) == ("PROTO", 2)


def test_values_by_hand(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    model = load_strictly(tmp_path / "out" / RANK_FILE)["model"]
    source = load_file(llama / "model.safetensors")
    q, k, v = (source[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv")
    groups = [q[0:20], k[0:10], v[0:10], q[20:40], k[10:20], v[10:20]]
    assert torch.equal(model["decoder.layers.1.self_attention.linear_qkv.weight"], torch.cat(groups))
    fc1 = model["decoder.layers.1.mlp.linear_fc1.weight"]
    assert torch.equal(fc1[:40], source["model.layers.1.mlp.gate_proj.weight"])
    assert torch.equal(fc1[40:], source["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(model["output_layer.weight"], source["lm_head.weight"])


def test_args_are_complete_and_right(tmp_path: Path) -> None:
    source = make_model(tmp_path / "in", "qwen2", dtype=torch.bfloat16, tie_word_embeddings=True)
    rope = {"rope_theta": 1000000.0, "rope_type": "default"}
    edit_config(source, rope_parameters=rope)
    convert_weights(options(source, "mcore", tmp_path / "out"))
    args = vars(load_strictly(tmp_path / "out" / RANK_FILE)["args"])
    assert args.keys() >= ARGS_OF_MEGATRON
    expected = {
        "num_layers": 2,
        "hidden_size": 24,
        "ffn_hidden_size": 40,
        "num_attention_heads": 4,
        "group_query_attention": True,
        "num_query_groups": 2,
        "kv_channels": 10,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "swiglu": True,
        "normalization": "RMSNorm",
        "norm_epsilon": 1e-5,
        "untie_embeddings_and_output_weights": False,
        "position_embedding_type": "rope",
        "max_position_embeddings": 128,
        "rotary_base": 1000000,
        "padded_vocab_size": 61,
        "params_dtype": torch.bfloat16,
        "bf16": True,
        "fp16": False,
        "tensor_model_parallel_size": 1,
        "ckpt_format": "torch",
    }
    assert {name: args[name] for name in expected} == expected


def test_checkpoints_of_others_can_be_read(llama: Path, tmp_path: Path) -> None:
    """Enums of packages that are not here, protocol 4, a defaultdict, _extra_state: Megatron-LM and MindSpeed do so."""
    from collections import OrderedDict, defaultdict
    from enum import Enum

    convert_weights(options(llama, "mcore", tmp_path / "out"))
    path = tmp_path / "out" / RANK_FILE
    state = load_strictly(path)
    state["args"].attention_backend = Enum("AttnBackend", ["auto"], module=__name__, qualname="Missing").auto  # type: ignore[attr-defined]
    state["optimizer"] = {"state": {0: torch.ones(3)}}
    state["rng_state"] = [{"random": Path("anything"), "order": OrderedDict(a=1)}]
    state["model"] = defaultdict(dict, state["model"])
    state["model"]["decoder.layers.0.mlp.linear_fc1._extra_state"] = None
    globals()["Missing"] = type(state["args"].attention_backend)
    try:
        torch.save(state, path, pickle_protocol=4)
    finally:
        del globals()["Missing"]
    report = convert_weights(options(tmp_path / "out", "hf", tmp_path / "back"))
    assert report.notes == ("left out optimizer, rng_state: only weights are converted",)
    before, after = load_file(llama / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_pickle_that_wants_to_run_something_runs_nothing(llama: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    convert_weights(options(llama, "mcore", tmp_path / "out"))
    path = tmp_path / "out" / RANK_FILE
    torch.save(load_strictly(path) | {"bomb": Bomb()}, path)
    StoredRanks.read(path.parent.parent)
    assert not (tmp_path / "exploded").exists()


def change(path: Path, **args: Any) -> None:
    state = load_strictly(path)
    vars(state["args"]).update(args)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"num_layers": 3}, "SP404"),
        ({"num_attention_heads": 2, "kv_channels": 20}, "SP404"),
        ({"num_query_groups": 1}, "SP404"),
        ({"tensor_model_parallel_size": 2}, "SP411"),
        ({"pipeline_model_parallel_size": 2}, "SP411"),
        ({"expert_model_parallel_size": 2}, "SP411"),
    ],
)
def test_args_that_do_not_fit(llama: Path, tmp_path: Path, args: dict[str, Any], code: str) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    change(tmp_path / "out" / RANK_FILE, **args)
    with pytest.raises((CheckpointError, ConfigError), match=next(iter(args))) as caught:
        convert_weights(options(tmp_path / "out", "hf", tmp_path / "back"))
    assert caught.value.code == code


def test_one_iteration_can_be_named(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    assert convert_weights(options(tmp_path / "out/iter_0000001", "hf", tmp_path / "back")).verified


@pytest.mark.parametrize("name", ["mp_rank_01", "mp_rank_00_001"])
def test_a_rank_without_a_file(llama: Path, tmp_path: Path, name: str) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    (tmp_path / "out/iter_0000001" / name).mkdir()
    with pytest.raises(CheckpointError, match=name) as caught:
        StoredRanks.read(tmp_path / "out/iter_0000001")
    assert caught.value.code == "SP401"


@pytest.mark.parametrize("value", [torch.zeros(2, dtype=torch.int8), "text"])
def test_what_is_no_weight_is_not_passed_over(tmp_path: Path, value: Any) -> None:
    (tmp_path / "mp_rank_00").mkdir()
    torch.save({"model": {"decoder.extra": value}}, tmp_path / "mp_rank_00/model_optim_rng.pt")
    with pytest.raises(CheckpointError, match=r"decoder\.extra") as caught:
        StoredRanks.read(tmp_path)
    assert caught.value.code == "SP404"


@pytest.mark.parametrize("tracker", [None, "latest", "3", "9" * 5000])
def test_a_checkpoint_without_its_parts(tmp_path: Path, tracker: str | None) -> None:
    if tracker:
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(tmp_path)
    assert caught.value.code == "SP401"


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_a_damaged_file(llama: Path, tmp_path: Path, damage: Any) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    path = tmp_path / "out" / RANK_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        convert_weights(options(tmp_path / "out", "hf", tmp_path / "back"))
    assert caught.value.code == "SP401"
    assert not (tmp_path / "back").exists()
