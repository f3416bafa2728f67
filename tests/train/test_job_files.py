"""What ``seqpack launch`` writes is run by a shell here, with a program in the place of seqpack that notes its call."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from seqpack.cli.app import load_command, run
from seqpack.core.errors import ConfigError
from seqpack.options.launch import LaunchOptions
from seqpack.train.interfaces import VARIABLES
from seqpack.train.job_files import job_files

TRAIN = ["train", "packs/a b", "--model", "models/x", "--save", "runs/$HOME"]


@pytest.fixture
def shell(tmp_path: Path):
    """``shell(text)`` runs a script; returns the words seqpack got, and what its environment had."""
    programs = tmp_path / "programs"
    programs.mkdir()
    fakes = {
        "seqpack": f'for word; do echo "$word"; done > {tmp_path}/words; env > {tmp_path}/env',
        "scontrol": 'printf "%s\\n" node-x node-y',
        "srun": 'shift; exec "$@"',
    }
    for name, text in fakes.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    def execute(script: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/home/x", **environment}
        shebang = script.partition("\n")[0]
        program = "bash" if "bash" in shebang else "sh"
        subprocess.run([program, "-c", script], env=environment, check=True)
        env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
        return (tmp_path / "words").read_text().splitlines(), env

    return execute


def assert_right(words: list[str], rank: int, master: str, nproc: int = 8) -> None:
    assert words[: len(TRAIN)] == TRAIN  # not one character of them is read by a shell
    params = load_command("train").make_context("train", words[1:]).params
    assert (params["nnodes"], params["node_rank"], params["nproc"]) == (2, rank, nproc)
    assert (params["master_addr"], params["master_port"]) == (master, 29500)


def test_a_script_for_each_machine(shell) -> None:
    files = job_files(LaunchOptions(command=TRAIN, hosts=["a", "b"], interface="eth9"))
    assert list(files) == ["node-0-a.sh", "node-1-b.sh"]
    for rank, text in enumerate(files.values()):
        words, env = shell(text)
        assert_right(words, rank, "a")
        assert {env[name] for name in VARIABLES} == {"eth9"}
        assert env["HCCL_CONNECT_TIMEOUT"] == "1800"


def test_without_an_interface_each_machine_finds_its_own(shell) -> None:
    (text, _) = job_files(LaunchOptions(command=TRAIN, hosts=["a", "b"], device="cuda", nproc=2)).values()
    words, env = shell(text)
    assert_right(words, 0, "a", nproc=2)
    assert not {*VARIABLES, "HCCL_CONNECT_TIMEOUT"} & env.keys()


def test_slurm(shell) -> None:
    ((name, text),) = job_files(
        LaunchOptions(command=TRAIN, nnodes=2, format="slurm", device="cuda", job_name="j")
    ).items()
    assert name == "j.sbatch"
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8"} <= set(text.splitlines())
    words, _ = shell(text, SLURM_NODEID="1", SLURM_JOB_NODELIST="node-[x-y]")
    assert_right(words, 1, "node-x")


def test_kubernetes(shell) -> None:
    ((_, text),) = job_files(LaunchOptions(command=TRAIN, nnodes=2, format="kubernetes", image="i")).items()
    service, job = yaml.safe_load_all(text)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == "seqpack"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"huawei.com/Ascend910": 8}
    assert container["command"][:2] == ["sh", "-c"]
    words, _ = shell(container["command"][2], JOB_COMPLETION_INDEX="1")
    assert_right(words, 1, "seqpack-0.seqpack")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"command": ["pack", "x"], "hosts": ["a"]}, "not pack"),
        ({"command": [], "hosts": ["a"]}, "nothing is given"),
        ({"command": [*TRAIN, "--node-rank=1"], "hosts": ["a"]}, "--node-rank=1 stands behind --"),
        ({"command": [*TRAIN, "--nproc", "2"], "hosts": ["a"]}, "--nproc stands behind --"),
        ({"command": TRAIN}, "needs the names of the machines"),
        ({"command": TRAIN, "format": "slurm"}, "the number of machines is missing"),
        ({"command": TRAIN, "hosts": ["a", "b"], "nnodes": 3}, "--hosts names 2"),
    ],
)
def test_what_cannot_be_launched(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        LaunchOptions(**given)
    assert raised.value.code == "SP620"


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "--hosts", "a", "b", "--nproc", "2", "--json"]
    assert run([*words, "--", *TRAIN]) == 0
    printed = json.loads(capsys.readouterr().out)["files"]
    assert run([*words, "--write", str(tmp_path / "jobs"), "--", *TRAIN]) == 0
    written = {path.name: path.read_text() for path in (tmp_path / "jobs").iterdir()}
    assert written == printed
    assert os.access(tmp_path / "jobs" / "node-0-a.sh", os.X_OK)
