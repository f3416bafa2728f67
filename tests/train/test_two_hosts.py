"""Two hosts, which two network namespaces stand for: each has an address of its own and sees nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import namespaces

from .conftest import WriteDataset
from .test_resume import losses

PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2]]
PORT = "29517"


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces; 10.77.0.1 and 10.77.0.2."""
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(namespaces.hosts(2))
        except PermissionError as error:
            pytest.skip(str(error))
        yield names


def train(data: Path, save: Path, *prefix: str, **environment: str) -> subprocess.Popen[str]:
    words = ["train", data, "--model", "tiny:qwen2", "--dtype", "float64", "--global-batch-size", 3]
    words += ["--epochs", 2, "--num-threads", 1, "--save", save]
    command = [*prefix, sys.executable, "-m", "seqpack", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_hosts_train_as_one_process(hosts: list[str], write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    common = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": PORT, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "eth0"}
    runs = [
        train(data, tmp_path / "two", "ip", "netns", "exec", name, **common, RANK=str(rank))
        for rank, name in enumerate(hosts)
    ]
    runs.append(train(data, tmp_path / "one"))
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    print(*errors, sep="\n")
    for ours, wanted in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-9)
