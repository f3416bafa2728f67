"""``--nproc N``, ``--nnodes M``: the same command in N processes of this machine. Free of torch, which they import."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from seqpack.core.errors import DistributedError
from seqpack.options.nodes import Nodes
from seqpack.train.interfaces import interface_variables

GRACE_SECONDS = 20.0
"""What the others get to end by themselves after a rank has failed."""
POLL_SECONDS = 0.1
TAIL_LINES = 30


def launch(arguments: Sequence[str], nodes: Nodes, logs: Path) -> int:
    """Run ``seqpack <arguments>`` as the processes of this machine; returns the exit code of the first.

    That one keeps this terminal, the others write to ``logs``. Raises DistributedError SP603 with the last lines of a
    rank that failed by itself; the others are ended then. Signals go to all ranks.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = nodes.master_port or _free_port()
    network = interface_variables(nodes.master_addr, os.environ) if nodes.count > 1 else {}
    first_rank = nodes.rank * nodes.nproc
    ranks = [
        _start(arguments, number, network | nodes.environment(number, port), _log(logs, first_rank + number))
        for number in range(nodes.nproc)
    ]
    before = {signum: signal.signal(signum, _forward(ranks)) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        if (failed := _wait(ranks)) is not None:
            code, rank = ranks[failed].returncode, first_rank + failed
            raise DistributedError(
                "SP603", f"rank {rank} ended with exit code {code}; its last lines:\n{_tail(_log(logs, rank))}"
            )
        return ranks[0].returncode
    finally:
        _end(ranks)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _log(logs: Path, rank: int) -> Path:
    return logs / f"rank-{rank}.log"


def _start(arguments: Sequence[str], number: int, told: dict[str, str], log_file: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **told}
    command = [sys.executable, "-m", "seqpack", *arguments]
    # In sessions of their own: Ctrl-C reaches this process alone, which hands it on once.
    if number == 0:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    with log_file.open("wb") as log:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all ranks have ended, or one has failed: the first that did, or None if rank 0 speaks for all."""
    first, deadline = None, 0.0
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed and first is None:
            # Of two that are seen at once, one that was killed is the cause.
            first = min(failed, key=lambda rank: (codes[rank] or 0, rank))
            deadline = time.monotonic() + GRACE_SECONDS
        if None not in codes or (first is not None and time.monotonic() > deadline):
            break
        time.sleep(POLL_SECONDS)
    if first is None or first == 0:
        return None
    # What every rank found, such as a flag that is wrong, is rank 0's to say: it has said it on this terminal.
    common = codes[0] == codes[first] and codes[first] not in (None, 1) and not _was_killed(codes[first])
    return None if common else first


def _was_killed(code: int | None) -> bool:
    return code is not None and code < 0


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()


def _forward(ranks: Sequence[subprocess.Popen[bytes]]) -> Callable[[int, FrameType | None], None]:
    def forward(signum: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signum)

    return forward


def _tail(log_file: Path) -> str:
    text = log_file.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
