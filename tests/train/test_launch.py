"""``--nproc``: what the launcher does with its ranks, which a shell script stands for here."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from seqpack.core.errors import DistributedError
from seqpack.options.nodes import Nodes
from seqpack.train.launch import launch


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``ranks("exit $RANK", 2)`` launches two ranks that run this instead of seqpack."""

    def run(script: str, size: int | Nodes) -> int:
        program = tmp_path / "rank.sh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        nodes = size if isinstance(size, Nodes) else Nodes(size)
        return launch(["train", "x"], nodes, tmp_path / "logs")

    return run


def test_every_rank_knows_its_place(ranks, tmp_path: Path) -> None:
    assert ranks(f'echo "$RANK of $WORLD_SIZE: $*" > {tmp_path}/said-$RANK', 3) == 0
    said = [(tmp_path / f"said-{rank}").read_text() for rank in range(3)]
    assert said == [f"{rank} of 3: -m seqpack train x\n" for rank in range(3)]


def test_processes_of_one_of_several_machines(ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    script = 'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT'
    script += f' $GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME" > {tmp_path}/said-$RANK'
    assert ranks(script, Nodes(2, count=3, rank=1, master_addr="127.0.0.1", master_port=1234)) == 0
    said = [(tmp_path / f"said-{rank}").read_text() for rank in (2, 3)]
    assert said == ["2/6 0/2 127.0.0.1:1234 mine lo\n", "3/6 1/2 127.0.0.1:1234 mine lo\n"]


def test_a_failure_names_the_rank_of_the_run(ranks) -> None:
    with pytest.raises(DistributedError, match="rank 3 ended with exit code 7"):
        ranks('[ "$RANK" = 3 ] && exit 7; exit 0', Nodes(2, count=2, rank=1, master_port=1))


def test_a_rank_that_fails_is_shown_and_the_others_are_ended(ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpack.train.launch.GRACE_SECONDS", 0.3)
    started = time.monotonic()
    with pytest.raises(DistributedError, match=r"rank 1 ended with exit code 7(.|\n)*the reason") as raised:
        ranks('if [ "$RANK" = 1 ]; then echo the reason; exit 7; fi; sleep 60', 3)
    assert raised.value.code == "SP603"
    assert time.monotonic() - started < 20


def test_a_rank_that_is_killed_is_the_cause(ranks) -> None:
    with pytest.raises(DistributedError, match="rank 1 ended with exit code -9"):
        ranks('if [ "$RANK" = 1 ]; then kill -9 $$; fi; sleep 0.5; exit 1', 2)


def test_what_all_found_is_said_by_the_first(ranks) -> None:
    assert ranks("exit 2", 2) == 2


def test_a_signal_goes_to_all_once(ranks, tmp_path: Path) -> None:
    script = f'trap "echo x >> {tmp_path}/got-$RANK; exit 130" INT; touch {tmp_path}/up-$RANK; sleep 30 & wait'

    def interrupt() -> None:
        while len(list(tmp_path.glob("up-*"))) < 2:
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), 2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert ranks(script, 2) == 130
    thread.join()
    assert [(tmp_path / f"got-{rank}").read_text() for rank in range(2)] == ["x\n", "x\n"]
