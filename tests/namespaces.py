"""Hosts that network namespaces stand for: each has an address of its own and sees nothing but the others."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator

ADDRESS = "10.77.0."
NUMBERS = itertools.count()
"""The kernel takes its time to remove what had a name before, so no name comes twice."""


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


@contextlib.contextmanager
def hosts(count: int, *, megabits: int | None = None) -> Iterator[list[str]]:
    """Names of ``count`` namespaces on one bridge; 10.77.0.1, 10.77.0.2, ... PermissionError without the right to.

    ``megabits`` a second limit what each sends.
    """
    bridge = f"sq{os.getpid()}n{next(NUMBERS)}"
    names = [f"{bridge}h{host}" for host in range(count)]
    try:
        ip(f"link add {bridge} type bridge")
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("needs the right to make network namespaces") from error
    try:
        ip(f"link set {bridge} up")
        for host, name in enumerate(names):
            ip(f"netns add {name}")
            ip(f"link add {bridge}v{host} type veth peer name eth0 netns {name}")
            ip(f"link set {bridge}v{host} master {bridge} up")
            ip(f"-n {name} addr add {ADDRESS}{host + 1}/24 dev eth0")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} link set lo up")
            if megabits is not None:
                queue = f"tc qdisc add dev eth0 root tbf rate {megabits}mbit burst 64kb latency 400ms"
                ip(f"netns exec {name} {queue}")
        yield names
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(f"netns del {name}")
        ip(f"link del {bridge}")
