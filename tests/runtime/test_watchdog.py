"""Ranks that stand still, fall silent or were started differently: the others say which and end."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from seqpack.core.errors import DistributedError
from seqpack.runtime.agreement import check_agreement
from seqpack.runtime.ranks import Ranks
from seqpack.runtime.watchdog import Patience, sign_of, watched
from tests.distributed import run_ranks

QUICK = Patience(beat=0.2, silence=2.0, stall=1.5)


def wait_for(folder: Path, size: int) -> list[str]:
    """What each of ``size`` ranks was told, as soon as all have been."""
    for _ in range(300):
        told = sorted(folder.glob("rank-*"))
        if len(told) == size:
            return [path.read_text() for path in told]
        time.sleep(0.1)
    raise AssertionError(f"only {len(told)} of {size} were told")


def stuck(ranks: Ranks, folder: Path, hold: str) -> None:
    """Rank 1 never comes to the exchange that rank 0 waits in; told of it, a rank writes that down and dies."""

    def end(error: DistributedError) -> None:
        (folder / f"partial-{ranks.rank}").write_text(f"{error.code} {error.message}")
        (folder / f"partial-{ranks.rank}").rename(folder / f"rank-{ranks.rank}")
        time.sleep(1.0)
        os._exit(error.exit_code)

    with watched(ranks, patience=QUICK, end=end):
        ranks.wait()
        if ranks.rank == 1 and hold == "dies":
            time.sleep(1.0)  # it has been seen
            threading.Event.wait = lambda *args: time.sleep(60) or True  # type: ignore[method-assign]
            time.sleep(60)
        if ranks.rank == 1:
            dist.recv(torch.zeros(1), 0)
        dist.all_reduce(torch.zeros(1))


def test_ranks_that_wait_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="died without a word"):
        run_ranks(2, stuck, tmp_path, "waits")
    for message in wait_for(tmp_path, 2):
        assert message.startswith("SP612 nothing has moved for 2 s: ")
        assert "rank 0 in all_reduce (test_watchdog.py:" in message
        assert "rank 1 in recv (test_watchdog.py:" in message


def test_a_rank_that_falls_silent(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="died without a word"):
        run_ranks(2, stuck, tmp_path, "dies")
    (message,) = wait_for(tmp_path, 1)
    assert message.startswith("SP612 rank 1 has given no sign of life for 2 s; it was at test_watchdog.py:")


def works(ranks: Ranks) -> int:
    """Slower than the patience in each step, and never still for long."""
    with watched(ranks, patience=QUICK, end=lambda error: os._exit(9)):
        for _ in range(3):
            if ranks.rank == 1:
                time.sleep(2.0)  # computes: not in an exchange, so that rank 0 has reason to wait
            dist.all_reduce(torch.zeros(1))
    return threading.active_count()


def test_ranks_that_work_are_left_alone() -> None:
    assert run_ranks(2, works) == [1, 1]


def test_one_process_is_not_watched() -> None:
    before = threading.active_count()
    with watched(Ranks()):
        assert threading.active_count() == before


def test_where_a_thread_is() -> None:
    sign = sign_of(threading.get_ident())
    assert (sign.exchange, sign.place.partition(":")[0]) == ("", "watchdog.py")


def differently(ranks: Ranks, facts: list[dict[str, object]]) -> str:
    try:
        check_agreement(ranks, facts[ranks.rank])
    except DistributedError as error:
        return f"{error.code} {error.message}"
    return "agreed"


def test_ranks_that_were_started_differently() -> None:
    same = {"layout": "tp 2", "data set": "ab" * 50}
    assert run_ranks(2, differently, [same, dict(same)]) == ["agreed"] * 2
    for other, message in (
        ({**same, "layout": "pp 2"}, "rank 1 was started with another layout than rank 0: pp 2, not tp 2"),
        ({**same, "data set": "ba" * 50}, "rank 1 was started with another data set than rank 0: "),
        ({"layout": "tp 2"}, "rank 1 was started with another data set than rank 0: None, not "),
    ):
        found = run_ranks(2, differently, [same, other])
        assert found[0] == found[1]
        assert found[0].startswith(f"SP613 {message}")
