"""Whether the machines of a run share the disk that its checkpoints go to."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from seqpack.runtime.ranks import Ranks

VISIBLE_SECONDS = 15.0
"""How long a file that another machine wrote may take to be seen: network disks remember that there was none."""
POLL_SECONDS = 0.2


def check_storage(save: Path, ranks: Ranks, *, own_disks: bool) -> None:
    """ConfigError SP622 unless every rank sees what the first writes to ``save``; every rank calls it.

    With ``own_disks`` nothing is asked.
    """
    if ranks.size == 1 or own_disks:
        return
    marker = save / f".seen-by-all-{ranks.gather(uuid.uuid4().hex)[0]}"
    try:
        if ranks.first:
            save.mkdir(parents=True, exist_ok=True)
            marker.touch()
        ranks.wait()
        seen = ranks.gather((socket.gethostname(), _appears(marker)))
    finally:
        if ranks.first:
            with contextlib.suppress(OSError):
                marker.unlink()
    blind = [(rank, host) for rank, (host, sees) in enumerate(seen) if not sees]
    if blind:
        rank, host = blind[0]
        raise ConfigError(
            "SP622",
            f"--save {save}: what rank 0 writes there on {seen[0][0]} is not seen by rank {rank} on {host}",
            help="name a directory on a disk that all machines share, or give --no-shared-storage: then no checkpoints "
            "are written, and the model ends up on machine 0",
        )


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
