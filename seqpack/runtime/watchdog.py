"""A thread in every rank that tells the others it is alive, and ends the run when one is not or when nothing moves.

A rank whose machine is gone, or which waits in another exchange than the rest, would leave the others waiting for as
long as the exchange allows. Rank 0 looks at what all say every few seconds; what it finds, every rank prints.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed as dist

from seqpack.core.errors import DistributedError
from seqpack.runtime.ranks import Ranks

WAITS_IN, WRITES_IN = "torch.distributed.", "torch.distributed.checkpoint"
OURS = ("seqpack.", "tests.")
PREFIX = "seqpack/watchdog"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: between two signs of life, until their absence means death, and until standing still means a hang."""

    beat: float = 5.0
    silence: float = 30.0
    stall: float = 45.0


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank says: ``moves`` counts its exchanges, ``exchange`` is the one it is in, or "", ``place`` the line."""

    moves: int
    exchange: str
    place: str

    def __str__(self) -> str:
        return f"in {self.exchange} ({self.place})" if self.exchange else f"at {self.place}"


@contextmanager
def watched(
    ranks: Ranks, *, patience: Patience = Patience(), end: Callable[[DistributedError], None] | None = None
) -> Iterator[None]:
    """Watch over the ranks while the block runs. ``end`` is told SP612; by default the process ends with its code."""
    if ranks.size == 1:
        yield
        return
    over = threading.Event()
    default: Any = dist.distributed_c10d._get_default_store()
    store = default.clone()  # this one is used by another thread
    store.set_timeout(timedelta(seconds=patience.silence))
    watch = _Watch(ranks, store, patience, end or _end_process, threading.get_ident(), over)
    thread = threading.Thread(target=watch.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=patience.beat)


class _Watch:
    def __init__(
        self,
        ranks: Ranks,
        store: Any,
        patience: Patience,
        end: Callable[[DistributedError], None],
        main_thread: int,
        over: threading.Event,
    ) -> None:
        self._ranks, self._store, self._patience = ranks, store, patience
        self._end, self._main_thread, self._over = end, main_thread, over
        self._seen: dict[int, tuple[str, float]] = {}
        self._still: dict[int, tuple[Sign, float]] = {}

    def run(self) -> None:
        beat = 0
        while not self._over.wait(self._patience.beat):
            beat += 1
            try:
                found = self._beat(beat)
            except RuntimeError as error:  # the store lies with rank 0
                found = f"rank 0 cannot be reached any more: {str(error).splitlines()[0]}"
            if found and not self._over.is_set():
                self._end(_error(self._ranks.rank, found))
                return

    def _beat(self, beat: int) -> str:
        """Say that this rank lives; returns what is wrong, or ""."""
        sign = sign_of(self._main_thread)
        text = json.dumps([beat, sign.moves, sign.exchange, sign.place])
        self._store.set(f"{PREFIX}/{self._ranks.rank}", text)
        if self._store.check([f"{PREFIX}/verdict"]):
            return str(self._store.get(f"{PREFIX}/verdict").decode())
        if not self._ranks.first:
            return self._silent([0])
        found = self._silent(range(self._ranks.size)) or self._standing_still()
        if found:
            self._store.set(f"{PREFIX}/verdict", found)
        return found

    def _silent(self, ranks: Any) -> str:
        """A rank whose last sign of life is too old; one that never gave one is still on its way here."""
        now = time.monotonic()
        for rank in ranks:
            key = f"{PREFIX}/{rank}"
            if not self._store.check([key]):
                continue
            text = self._store.get(key).decode()
            if self._seen.get(rank, ("", 0.0))[0] != text:
                self._seen[rank] = (text, now)
            elif now - self._seen[rank][1] > self._patience.silence:
                last = Sign(*json.loads(text)[1:])
                return f"rank {rank} has given no sign of life for {self._patience.silence:.0f} s; it was {last}"
        return ""

    def _standing_still(self) -> str:
        """All ranks, if each has been in one and the same exchange for too long."""
        now = time.monotonic()
        for rank, (text, _) in self._seen.items():
            sign = Sign(*json.loads(text)[1:])
            if rank not in self._still or self._still[rank][0] != sign:
                self._still[rank] = (sign, now)
        stalled = {
            rank: sign
            for rank, (sign, since) in self._still.items()
            if sign.exchange and now - since > self._patience.stall
        }
        if len(stalled) < self._ranks.size:
            return ""
        return f"nothing has moved for {self._patience.stall:.0f} s: {_places(stalled)}"


def sign_of(thread: int) -> Sign:
    """Where a thread of this process is: the exchange it waits in, if any, and the line here that asked for it."""
    frame: FrameType | None = sys._current_frames().get(thread)
    exchange = ""
    if frame is not None and _module(frame).startswith(WAITS_IN) and not _module(frame).startswith(WRITES_IN):
        exchange = frame.f_code.co_name
    while frame is not None and not _module(frame).startswith(OURS):
        frame = frame.f_back
    place = "?" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
    return Sign(_moves(), exchange, place)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _moves() -> int:
    """Exchanges that all groups of this process have begun."""
    total = 0
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    for group in groups:
        with suppress(RuntimeError):  # a group that has not exchanged anything yet
            total += group._get_sequence_number_for_group()
    return total


def _places(signs: Mapping[int, Sign]) -> str:
    """Ranks by where they are: "rank 0 in all_reduce (a.py:3); rank 1 in barrier (b.py:4)"."""
    by_place: dict[str, list[int]] = {}
    for rank in sorted(signs):
        by_place.setdefault(str(signs[rank]), []).append(rank)
    named = []
    for place, ranks in by_place.items():
        some = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
        named.append(f"rank{'s' if len(ranks) > 1 else ''} {some} {place}")
    return "; ".join(named)


def _error(rank: int, found: str) -> DistributedError:
    return DistributedError(
        "SP612", f"{found} (said by rank {rank})", help="see why; --resume goes on from the last checkpoint"
    )


def _end_process(error: DistributedError) -> None:
    """The main thread cannot be woken from an exchange, so the process ends from here."""
    print(f"error[{error.code}]: {error.message}\n  help: {error.help}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
