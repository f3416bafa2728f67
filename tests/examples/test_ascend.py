"""The scripts for Ascend machines run here up to the first step: ``--dry-run --device cpu`` behind their own flags."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.npu_cases import CASES

FOLDER = Path(__file__).parents[2] / "examples" / "ascend"
GOLDEN = Path(__file__).parents[1] / "golden" / "mindspeed"
SCRIPTS = sorted(path.name for path in FOLDER.glob("qwen*.sh"))
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw rows, and the shape of Qwen2.5-7B with a small tokenizer and without weights."""
    folder = tmp_path_factory.mktemp("ascend")
    shutil.copytree(GOLDEN / "tokenizers" / "qwen", folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps(QWEN))
    return folder


def run_script(place: Path, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    data = place / ("packs-32k" if "32k" in name else "packs-4k")
    paths = {"MODEL": place / "model", "DATA": data, "SAVE": place / "run"}
    paths["RAW"] = GOLDEN / "inputs" / "alpaca_en_200.jsonl"
    environment = {**os.environ, **{key: str(path) for key, path in paths.items()}, **variables}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["ASCEND_SET_ENV"] = os.devnull + "-no"
    command = [str(FOLDER / name), *words]
    return subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)


def plan(place: Path, name: str, **variables: str) -> dict[str, Any]:
    """What a dry run prints as JSON."""
    done = run_script(place, name, "--dry-run", "--device", "cpu", "--json", **variables)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found: dict[str, Any] = json.loads(last)["plan"]
    return found


def test_one_machine(place: Path) -> None:
    found = plan(place, "qwen2.5-7b_4k_one_machine.sh")
    assert 7.6e9 < found["num_parameters"] < 7.7e9
    assert (found["parallel"], found["dtype"], found["num_steps"]) == ("dp 8", "bfloat16", 2000)
    assert found["state_bytes"] / 2**30 == pytest.approx(15, abs=1), "the script says 15 GiB"
    assert found["packed"] is True


def test_context_parallel(place: Path) -> None:
    found = plan(place, "qwen2.5-7b_32k_context_parallel.sh")
    assert found["parallel"] == "dp 2 · cp 4"


def test_two_machines(place: Path) -> None:
    """One machine of two, here: the second would wait for the first."""
    plan(place, "qwen2.5-7b_4k_one_machine.sh")  # makes the packs
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "NODE_RANK": "0", "NNODES": "1", "NPROC": "1"}
    found = plan(place, "qwen2.5-7b_4k_two_machines.sh", IFNAME="lo", **variables)
    assert found["parallel"] == "one process"
    assert found["global_batch_size"] == 128


def test_what_the_second_machine_must_know(place: Path) -> None:
    done = run_script(place, "qwen2.5-7b_4k_two_machines.sh", IFNAME="lo", MASTER_ADDR="10.0.0.1")
    assert done.returncode != 0
    assert "NODE_RANK: 0 on the first machine" in done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_asks_for_the_npu_and_says_which_recipe_it_is(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert "--device npu" in text and '"$@"' in text
    assert f"`{name}`" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """With the CPU in place of the NPU and its attention."""
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace('select_device("npu")', 'select_device("cpu")').replace(
        "torch.bfloat16", "torch.float32, cases=CASES[:2]"
    )
    code = code.replace("from seqpack.attention.npu import NpuAttention", "")
    code = code.replace("NpuAttention(torch.ops.npu)", "cpu_flash_attention")
    exec(code, {"cpu_flash_attention": cpu_flash_attention, "CASES": CASES})
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == ["ok  "] * 2
