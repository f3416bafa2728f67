"""There and back again: every bit, every refusal, and nothing left behind by a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqpack.convert import convert as convert_module
from seqpack.convert import copying
from seqpack.convert.convert import ConvertReport, convert_weights
from seqpack.convert.plan import Copy, Plan
from seqpack.convert.tensors import Key
from seqpack.core.errors import CheckpointError, ConfigError, DeviceError, SeqpackError
from seqpack.options.convert import parse_size

from .conftest import edit_config, make_model, options, same_bytes, tree

TRACKER = "latest_checkpointed_iteration.txt"


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def there_and_back(source: Path, folder: Path, **back: Any) -> ConvertReport:
    report = convert_weights(options(source, "mcore", folder / "mcore"))
    assert convert_weights(options(folder / "mcore", "hf", folder / "back", **back)).verified
    return report


def assert_same_weights(one: Path, other: Path) -> None:
    before, after = tensors_of(one), tensors_of(other)
    assert before.keys() == after.keys()
    assert [name for name in before if not same_bytes(before[name], after[name])] == []


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_round_trip_is_bit_identical(tmp_path: Path, family: str, tied: bool, dtype: torch.dtype, groups: int) -> None:
    source = make_model(tmp_path / "in", family, dtype=dtype, tie_word_embeddings=tied, num_key_value_heads=groups)
    report = there_and_back(source, tmp_path)
    assert_same_weights(source, tmp_path / "back")
    assert report.dtypes == (str(dtype).removeprefix("torch."),)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (source / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    assert not (tmp_path / "back/optimizer.pt").exists()


def test_sharded_in_and_sharded_out(tmp_path: Path) -> None:
    source = make_model(tmp_path / "in", "qwen2", shard="10KB")
    there_and_back(source, tmp_path, max_shard_size="12KB")
    assert len(list((tmp_path / "back").glob("model-*-of-*.safetensors"))) > 2
    assert_same_weights(source, tmp_path / "back")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_logits(tmp_path: Path, family: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    source = make_model(tmp_path / "in", family, tie_word_embeddings=tied)
    there_and_back(source, tmp_path, max_shard_size="20KB")
    ids = torch.arange(20)[None] % 61
    with torch.no_grad():
        before, after = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (source, tmp_path / "back"))
    assert torch.equal(before, after)


def test_a_config_of_transformers_4(tmp_path: Path) -> None:
    source = make_model(tmp_path / "in", "llama", head_dim=6)
    edit_config(source, rope_parameters=None, rope_theta=5e5, dtype=None, torch_dtype="float32", head_dim=None)
    edit_config(source, tie_word_embeddings=None)
    there_and_back(source, tmp_path)
    assert_same_weights(source, tmp_path / "back")


def with_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Rewrite a single-file model; None removes a tensor."""
    tensors = {name: t for name, t in (tensors_of(folder) | changes).items() if t is not None}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_rotary_tables_and_a_stored_tied_head_are_left_out_and_said(qwen: Path, tmp_path: Path) -> None:
    embedding = tensors_of(qwen)["model.embed_tokens.weight"]
    before = {**tensors_of(qwen)}
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(5) for i in range(2)}
    with_tensors(qwen, **tables, **{"lm_head.weight": embedding.clone()})
    report = there_and_back(qwen, tmp_path)
    assert report.notes == (
        "left out 2 rotary inv_freq tables: they follow from the config",
        "left out lm_head.weight: it equals the embedding",
    )
    assert tensors_of(tmp_path / "back").keys() == before.keys()


def test_rotary_scaling_that_megatron_does_not_know_is_said(llama: Path, tmp_path: Path) -> None:
    edit_config(llama, rope_parameters={"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0})
    assert "yarn" in convert_weights(options(llama, "mcore", tmp_path / "out")).notes[0]


def fails(source: Path, to: str, output: Path, **values: Any) -> SeqpackError:
    """The error of a conversion that must not leave anything behind."""
    before = tree(output.parent)
    with pytest.raises(SeqpackError) as caught:
        convert_weights(options(source, to, output, **values))
    assert tree(output.parent) == before
    assert caught.value.help
    return caught.value


def test_a_tied_head_that_differs(qwen: Path, tmp_path: Path) -> None:
    with_tensors(qwen, **{"lm_head.weight": torch.zeros(61, 24)})
    error = fails(qwen, "mcore", tmp_path / "out")
    assert (error.code, type(error)) == ("SP405", CheckpointError)


def test_tied_on_the_way_back(qwen: Path, tmp_path: Path) -> None:
    convert_weights(options(qwen, "mcore", tmp_path / "out"))
    path = tmp_path / "out/iter_0000001/mp_rank_00/model_optim_rng.pt"
    state = torch.load(path, weights_only=False)
    state["model"]["output_layer.weight"] = state["model"]["embedding.word_embeddings.weight"].clone()
    torch.save(state, path)
    assert convert_weights(options(tmp_path / "out", "hf", tmp_path / "back")).notes
    assert_same_weights(qwen, tmp_path / "back")
    state["model"]["output_layer.weight"][3, 3] += 1
    torch.save(state, path)
    assert fails(tmp_path / "out", "hf", tmp_path / "again").code == "SP405"


def test_missing_and_left_over_parameters_are_listed(llama: Path, tmp_path: Path) -> None:
    with_tensors(llama, **{"model.norm.weight": None, "model.layers.0.self_attn.q_norm.weight": torch.ones(10)})
    error = fails(llama, "mcore", tmp_path / "out")
    assert (error.code, type(error)) == ("SP403", CheckpointError)
    assert "model.norm.weight" in error.message
    assert "q_norm" in error.message


def test_a_missing_head_is_explained(llama: Path, tmp_path: Path) -> None:
    with_tensors(llama, **{"lm_head.weight": None})
    error = fails(llama, "mcore", tmp_path / "out")
    assert error.code == "SP403"
    assert "tie_word_embeddings" in error.help


def test_shapes_and_dtypes_that_do_not_fit(llama: Path, tmp_path: Path) -> None:
    key = tensors_of(llama)["model.layers.0.self_attn.k_proj.weight"]
    with_tensors(llama, **{"model.layers.0.self_attn.k_proj.weight": key.half()})
    assert fails(llama, "mcore", tmp_path / "out").code == "SP404"
    with_tensors(llama, **{"model.layers.0.self_attn.k_proj.weight": key[:10].clone()})
    assert fails(llama, "mcore", tmp_path / "out").code == "SP404"


def test_a_model_directory_is_no_source_for_one(llama: Path, tmp_path: Path) -> None:
    error = fails(llama, "hf", tmp_path / "out")
    assert error.code == "SP413"
    assert "already" in error.message


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert fails(tmp_path / "nowhere", "mcore", tmp_path / "out").code == "SP401"
    assert fails(tmp_path / "nowhere", "hf", tmp_path / "out").code == "SP401"


def test_existing_output_is_refused_and_replaced_on_request(llama: Path, qwen: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert_weights(options(llama, "mcore", out))
    (out / "notes.txt").write_text("mine")
    error = fails(qwen, "mcore", out)
    assert (error.code, type(error)) == ("SP004", ConfigError)
    convert_weights(options(qwen, "mcore", out, overwrite=True, release=True))
    assert not (out / "iter_0000001").exists()
    assert (out / TRACKER).read_text() == "release"
    assert (out / "notes.txt").read_text() == "mine"
    convert_weights(options(out, "hf", tmp_path / "back"))
    assert_same_weights(qwen, tmp_path / "back")
    (tmp_path / "file").write_text("")
    assert fails(qwen, "mcore", tmp_path / "file", overwrite=True).code == "SP004"


def test_replacing_leaves_no_old_shards(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", max_shard_size="10KB"))
    convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", overwrite=True))
    assert_same_weights(llama, tmp_path / "back")
    assert not list((tmp_path / "back").glob("*index.json"))
    assert not (tmp_path / "back/mg2hg").exists()


def test_an_empty_output_directory_is_used(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.keep").write_text("")
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    assert (tmp_path / "out" / TRACKER).exists()
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".keep"]


def test_overwriting_never_removes_the_source(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "out"))
    (llama / "model.safetensors").rename(tmp_path / "out/hf/model.safetensors")
    error = fails(tmp_path / "out/hf", "mcore", tmp_path / "out", overwrite=True)
    assert error.code == "SP004"


def test_beside_an_original_model_the_way_back_writes_mg2hg(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    before = {name: (llama / name).read_bytes() for name in tree(llama)}
    report = convert_weights(options(tmp_path / "mcore", "hf", llama))
    assert report.output == llama / "mg2hg"
    assert_same_weights(llama, llama / "mg2hg")
    assert {name: (llama / name).read_bytes() for name in tree(llama) if "mg2hg" not in name} == before
    assert fails(tmp_path / "mcore", "hf", llama).code == "SP004"
    convert_weights(options(tmp_path / "mcore", "hf", llama, overwrite=True))


def test_where_the_config_comes_from_on_the_way_back(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    (tmp_path / "mcore/hf").rename(tmp_path / "elsewhere")
    error = fails(tmp_path / "mcore", "hf", tmp_path / "back")
    assert (error.code, type(error)) == ("SP407", ConfigError)
    assert "--hf-dir" in error.help
    convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", hf_dir=tmp_path / "elsewhere"))
    assert_same_weights(llama, tmp_path / "back")
    # as with MindSpeed-LLM, where --save-dir names the original model
    assert convert_weights(options(tmp_path / "mcore", "hf", llama)).output == llama / "mg2hg"


def test_a_model_that_has_a_config_needs_no_other(llama: Path, tmp_path: Path) -> None:
    error = fails(llama, "mcore", tmp_path / "out", hf_dir=llama)
    assert (error.code, error.message.split(" would do nothing")[0]) == ("SP028", "--hf-dir")


def test_a_config_of_another_model(llama: Path, tmp_path: Path) -> None:
    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    other = make_model(tmp_path / "other", "llama", num_hidden_layers=3)
    assert fails(tmp_path / "mcore", "hf", tmp_path / "back", hf_dir=other).code == "SP404"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], existing: bool
) -> None:
    real, calls = copying.OpenFiles.write, 0

    def fail_at_the_fifth(self: copying.OpenFiles, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error("pulled the plug")
        real(self, *arguments)

    monkeypatch.setattr(copying.OpenFiles, "write", fail_at_the_fifth)
    if existing:
        (tmp_path / "out").mkdir()
    before = tree(tmp_path)
    with pytest.raises(error, match="pulled the plug"):
        convert_weights(options(llama, "mcore", tmp_path / "out"))
    assert calls >= 5
    assert tree(tmp_path) == before
    assert (tmp_path / "out").exists() == existing


def test_a_full_disk_is_said(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying.OpenFiles, "write", full)
    assert fails(llama, "mcore", tmp_path / "out").code == "SP503"


def test_a_disk_that_would_become_full_is_said_before(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    error = fails(llama, "mcore", tmp_path / "out")
    assert (error.code, type(error)) == ("SP503", DeviceError)
    assert "1,000 are free" in error.message


def test_a_killed_publication_has_no_tracker(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqpack.io import publish

    convert_weights(options(llama, "mcore", tmp_path / "out"))
    moved = []

    def fail_at_the_second(source: Path, destination: Path) -> None:
        moved.append(destination.name)
        if len(moved) == 2:
            raise RuntimeError("pulled the plug")
        Path(source).replace(destination)

    monkeypatch.setattr(publish.os, "replace", fail_at_the_second)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        convert_weights(options(llama, "mcore", tmp_path / "out", overwrite=True))
    assert TRACKER not in moved
    assert not (tmp_path / "out" / TRACKER).exists()


def test_verification_catches_a_wrong_plan(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values exchanged: every byte is written once, but to the wrong place."""
    real = convert_module.make_plan

    def exchanged(sources: Any, targets: Any) -> Plan:
        plan = real(sources, targets)
        swap = {"k_proj": "v_proj", "v_proj": "k_proj"}

        def renamed(copy: Copy) -> Copy:
            for name, other in swap.items():
                if name in copy.source.name:
                    return copy._replace(source=Key("", copy.source.name.replace(name, other)))
            return copy

        return replace(plan, copies={key: tuple(map(renamed, copies)) for key, copies in plan.copies.items()})

    monkeypatch.setattr(convert_module, "make_plan", exchanged)
    error = fails(llama, "mcore", tmp_path / "out")
    assert (error.code, type(error)) == ("SP408", CheckpointError)
    assert not convert_weights(options(llama, "mcore", tmp_path / "out", verify=False)).verified


def test_the_manifest_names_source_and_digests(llama: Path, tmp_path: Path) -> None:
    import hashlib

    convert_weights(options(llama, "mcore", tmp_path / "out"))
    manifest = json.loads((tmp_path / "out/seqpack_convert.json").read_text())
    tensors = tensors_of(llama)
    assert manifest["source"] == str(llama)
    assert manifest["sha256"] == {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500mb", 5 * 10**8), ("2 GiB", 2**31), ("1000", 1000), ("1.5KB", 1500)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "4 parsecs", "0.1B"])
def test_sizes_that_are_none(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        options(tmp_path, "hf", tmp_path, max_shard_size=text)
    assert caught.value.code == "SP410"
