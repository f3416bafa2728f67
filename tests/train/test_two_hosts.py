"""Two hosts, which two network namespaces stand for: each has an address of its own and sees nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import namespaces

from .conftest import WriteDataset
from .test_resume import losses

PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2]]
HOSTS = 2
PORT = "29517"


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces; 10.77.0.1 and 10.77.0.2."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(namespaces.hosts(HOSTS))
        except PermissionError as error:
            pytest.skip(str(error))
        yield names


def assert_same_losses(run: Path, wanted: Path) -> None:
    for ours, theirs in zip(losses(run), losses(wanted), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


def on_host(
    name: str, rank: int, words: list[object], *, nproc: int = 1, own_disk: Path | None = None
) -> subprocess.Popen[str]:
    """One of the machines of a run; it finds its network interface by itself."""
    nodes = ["--nnodes", HOSTS, "--node-rank", rank, "--master-addr", "10.77.0.1", "--master-port", PORT]
    nodes += ["--nproc", nproc]
    command = shlex.join([sys.executable, "-m", "seqpack", *map(str, [*words, *nodes])])
    if own_disk is not None:  # mounted in the name space of this machine alone
        command = f"mount -t tmpfs none {own_disk} && exec {command}"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    return subprocess.Popen(
        ["ip", "netns", "exec", name, "sh", "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def words_of(data: Path, save: Path, *more: object) -> list[object]:
    small = ["--model", "tiny:qwen2", "--dtype", "float64", "--global-batch-size", 3, "--epochs", 2, "--num-threads", 1]
    return ["train", data, *small, "--save", save, *more]


@pytest.mark.slow
def test_two_hosts_train_as_one_process(hosts: list[str], write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    runs = [on_host(name, rank, words_of(data, tmp_path / "two", "-q"), nproc=2) for rank, name in enumerate(hosts)]
    one = [sys.executable, "-m", "seqpack", *map(str, words_of(data, tmp_path / "one", "-q"))]
    runs.append(subprocess.Popen(one, stderr=subprocess.PIPE, text=True))
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert_same_losses(tmp_path / "two", tmp_path / "one")
    logs = sorted(path.name for path in (tmp_path / "two" / "logs").iterdir())
    assert logs == ["rank-1.log", "rank-3.log"]  # the first process of each machine has its terminal


@pytest.mark.slow
def test_hosts_with_disks_of_their_own(hosts: list[str], write_dataset: WriteDataset, tmp_path: Path) -> None:
    data, save = write_dataset(PACKS, seq_length=10), tmp_path / "disk"
    save.mkdir()

    def both(*more: object) -> list[tuple[int, str]]:
        disks = [None, save]
        runs = [
            on_host(name, n, words_of(data, save / "run", *more), own_disk=disks[n]) for n, name in enumerate(hosts)
        ]
        errors = [run.communicate(timeout=120)[1] for run in runs]
        return [(run.returncode, error) for run, error in zip(runs, errors, strict=True)]

    (code, error), (other_code, _) = both()
    assert (code, other_code) == (2, 2), error
    assert "SP622" in error and "is not seen by rank 1" in error
    done = both("--no-shared-storage", "--overwrite")
    assert [code for code, _ in done] == [0, 0], done
    assert (save / "run" / "model" / "model.safetensors").is_file()
    assert not list((save / "run").glob("step-*"))


@pytest.mark.slow
def test_verify_on_two_hosts(hosts: list[str], write_dataset: WriteDataset, tmp_path: Path) -> None:
    words = ["verify", write_dataset(PACKS, seq_length=10), "--model", "tiny:qwen2", "--rows", 2, "--json"]
    runs = [on_host(name, rank, [*words, "--num-threads", 1]) for rank, name in enumerate(hosts)]
    printed = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    report = json.loads(printed[0][0])
    assert report["passed"] and "dp 2" in report["on"]["runs on"]
    assert printed[1][0] == ""  # only machine 0 speaks
