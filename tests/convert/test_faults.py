"""What can be wrong with a checkpoint or a machine: named, with a code, and nothing is left behind or lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.convert.convert import convert_weights
from seqpack.core.errors import SeqpackError

from .conftest import make_model, options, tree

FILE = "model_optim_rng.pt"
NORM = "decoder.final_layernorm.weight"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A checkpoint of TP 2 and PP 3; its iteration's folder."""
    model = make_model(tmp_path / "model", "qwen2", num_hidden_layers=3)
    convert_weights(options(model, "mcore", tmp_path / "mcore", tp=2, pp=3))
    return tmp_path / "mcore/iter_0000001"


def error_of(checkpoint: Path, to: str = "hf") -> SeqpackError:
    """The error of a conversion of a checkpoint, which must not leave anything behind."""
    parent = checkpoint.parent.parent
    before = tree(parent)
    with pytest.raises(SeqpackError) as caught:
        convert_weights(options(checkpoint.parent, to, parent / "back"))
    assert tree(parent) == before
    assert caught.value.help
    return caught.value


def change(path: Path, what: Callable[[dict[str, Any]], None]) -> None:
    """Load a rank's file, change it, save it."""
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(path, weights_only=True)
    what(state)
    torch.save(state, path)


@pytest.mark.parametrize("to", ["hf", "mcore"])
@pytest.mark.parametrize(
    ("rank", "code", "word"),
    [
        ("mp_rank_00_001", "SP401", "misses TP 0 PP 1 EP 0"),
        ("mp_rank_01_000", "SP401", "5 of 6 ranks"),
        ("mp_rank_01_002", "SP401", "TP 1 PP 2"),
    ],
)
def test_a_missing_rank_is_named(split: Path, rank: str, code: str, word: str, to: str) -> None:
    shutil.rmtree(split / rank)
    error = error_of(split, to)
    assert (error.code, error.exit_code) == (code, 3)
    assert word in error.message


@pytest.mark.parametrize("stage", ["_000", "_001", "_002"])
def test_the_last_tensor_parallel_rank_is_missed_by_what_args_say(split: Path, stage: str) -> None:
    for each in ("_000", "_001", "_002"):
        shutil.rmtree(split / f"mp_rank_01{each}")
    error = error_of(split)
    assert error.code == "SP411"
    assert "tensor_model_parallel_size is 2" in error.message


def test_a_missing_last_stage_is_missed_by_the_number_of_layers(split: Path) -> None:
    for tp in ("00", "01"):
        shutil.rmtree(split / f"mp_rank_{tp}_002")
    assert error_of(split).code == "SP404"


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_file_that_was_cut(split: Path, damage: Callable[[bytes], bytes]) -> None:
    path = split / "mp_rank_01_001" / FILE
    path.write_bytes(damage(path.read_bytes()))
    error = error_of(split)
    assert (error.code, error.exit_code) == ("SP401", 3)
    assert "mp_rank_01_001" in error.message


def test_a_shard_that_was_cut(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", shard="10KB")
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(SeqpackError, match=shard.name) as caught:
        convert_weights(options(model, "mcore", tmp_path / "out"))
    assert (caught.value.code, (tmp_path / "out").exists()) == ("SP401", False)


def test_parameters_that_are_left_over_or_missing_are_listed(split: Path) -> None:
    def exchange(state: dict[str, Any]) -> None:
        state["model"]["decoder.layers.0.self_attention.q_layernorm.weight"] = torch.ones(10)
        del state["model"][NORM]

    change(split / "mp_rank_01_002" / FILE, exchange)
    error = error_of(split)
    assert (error.code, error.exit_code) == ("SP403", 3)
    for word in (NORM, "q_layernorm", "mp_rank_01_002"):
        assert word in error.message


def test_a_wrong_shape_is_named(split: Path) -> None:
    change(split / "mp_rank_00_002" / FILE, lambda state: state["model"].update({NORM: torch.ones(23)}))
    error = error_of(split)
    assert error.code == "SP404"
    assert "[23] instead of [24]" in error.message


@pytest.mark.parametrize("to", ["hf", "mcore"])
def test_ranks_that_drifted_apart_are_noticed(split: Path, to: str) -> None:
    change(split / "mp_rank_01_002" / FILE, lambda state: state["model"][NORM].add_(1e-3))
    error = error_of(split, to)
    assert (error.code, error.exit_code) == ("SP411", 3)
    assert NORM in error.message and "mp_rank_01_002" in error.message


def test_a_tied_head_of_the_last_stage_that_was_trained_apart(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "qwen2", tie_word_embeddings=True)
    convert_weights(options(model, "mcore", tmp_path / "mcore", pp=2))
    path = tmp_path / "mcore/iter_0000001/mp_rank_00_001" / FILE
    change(path, lambda state: state["model"]["output_layer.weight"][7].add_(1))
    assert error_of(tmp_path / "mcore/iter_0000001").code == "SP405"


def test_dense_weights_of_expert_ranks_are_compared(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "mixtral")
    convert_weights(options(model, "mcore", tmp_path / "mcore", ep=2))
    path = tmp_path / "mcore/iter_0000001/mp_rank_00_001" / FILE
    change(path, lambda state: state["model"]["embedding.word_embeddings.weight"][60].add_(1))
    error = error_of(tmp_path / "mcore/iter_0000001")
    assert error.code == "SP411"
    assert "word_embeddings" in error.message


def test_a_vocabulary_that_is_smaller_than_the_config_says(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", vocab_size=40)
    convert_weights(options(model, "mcore", tmp_path / "mcore"))
    larger = make_model(tmp_path / "larger", "llama")
    with pytest.raises(SeqpackError, match="40 rows") as caught:
        convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", hf_dir=larger))
    assert caught.value.code == "SP404"


def test_a_number_too_large_for_its_new_type_publishes_nothing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make_model(tmp_path / "model", "llama")
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    before = tree(tmp_path)
    with pytest.raises(SeqpackError) as caught:
        convert_weights(options(model, "mcore", tmp_path / "out", params_dtype="fp16"))
    assert (caught.value.code, tree(tmp_path)) == ("SP412", before)
    assert convert_weights(options(model, "mcore", tmp_path / "out", params_dtype="bf16")).verified


KILLED = """
import os, signal, sys
from pathlib import Path
from seqpack.convert import copying
from seqpack.convert.convert import convert_weights
from seqpack.convert.request import Request
from seqpack.options.convert import ConvertOptions

real, calls = copying.OpenFiles.write, 0

def write(self, *arguments):
    global calls
    calls += 1
    if calls == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments)

copying.OpenFiles.write = write
source, to, output = sys.argv[1:]
convert_weights(Request(ConvertOptions(source=Path(source), to=to, output=Path(output))))
"""


@pytest.mark.parametrize("to", ["mcore", "hf"])
def test_a_killed_conversion_leaves_nothing_to_load_and_starts_over(tmp_path: Path, to: str) -> None:
    source = make_model(tmp_path / "model", "llama")
    if to == "hf":
        convert_weights(options(source, "mcore", tmp_path / "mcore"))
        source = tmp_path / "mcore"
    output = tmp_path / "made/out"
    killed = subprocess.run([sys.executable, "-c", KILLED, source, to, output], check=False)
    assert killed.returncode == -9
    assert not output.exists()
    (left,) = (tmp_path / "made").iterdir()
    assert left.name.startswith(".")
    for path in left.rglob("*.pt"):
        with pytest.raises(Exception, match="legacy"):
            torch.load(path, weights_only=True)
    assert not list(left.rglob("latest_checkpointed_iteration.txt")) and not list(left.rglob("config.json"))
    assert convert_weights(options(source, to, output)).verified
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out"]
