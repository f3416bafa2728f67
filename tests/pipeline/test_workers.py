"""Workers: the same files from any number of them, the same errors, and nobody left behind."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqpack.core.errors import DataError, DeviceError
from seqpack.io import shards
from seqpack.io.shards import Shard
from seqpack.pipeline import workers
from seqpack.pipeline.workers import WorkerBug, run_on_shards, stop_if_orphaned

from .conftest import Runs

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
MODES = [{}, {"neat_pack": True, "seq_length": 64}]


def parts(count: int) -> list[Shard]:
    return [Shard(Path("data.jsonl"), 0, first_line=10 * number + 1, index=number) for number in range(count)]


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture
def mixed(write_jsonl) -> Path:
    """Rows of all fates: kept, truncated, mended, rejected for two reasons."""
    rows: list[object] = []
    for n in range(60):
        rows.append(ROW | {"output": " water" * (n % 7 * 12 + 1)})
        if n % 9 == 4:
            rows.append(ROW | {"output": "" if n % 2 else 3})
        if n % 11 == 3:
            rows.append("")
        if n % 13 == 5:
            rows.append(ROW | {"output": "half a pair: \ud83d"})
    return write_jsonl([row if isinstance(row, str) else json.dumps(row) for row in rows], "mixed.jsonl")


@pytest.mark.parametrize("mode", MODES, ids=["plain", "neat"])
@pytest.mark.parametrize("size", [1, 700, 4000])
def test_the_number_of_workers_does_not_show(runs, mixed, alpaca, tmp_path, tokenizer_dir, monkeypatch, mode, size):
    other = Runs(tmp_path / "other", tokenizer_dir)
    options = {"max_drop": 1.0, "seq_length": 64} | mode
    runs.preprocess([mixed, alpaca], **options, workers=1)
    monkeypatch.setattr(shards, "SHARD_BYTES", size)
    other.preprocess([mixed, alpaca], **options, workers=3)
    assert runs.files() == other.files()
    assert runs.stats(mixed, max_drop=1.0, workers=1) == runs.stats(mixed, max_drop=1.0, workers=2)


def test_the_first_error_of_the_data_is_the_one_reported(runs, write_jsonl, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    file = write_jsonl([json.dumps(ROW)] * 30 + ["{"] + [json.dumps(ROW)] * 30 + ["["])
    for _ in range(3):
        with pytest.raises(DataError, match=r"data\.jsonl:31 is not valid JSON") as error:
            runs.preprocess(file, workers=3)
        assert error.value.code == "SP103"
    assert not list(runs.folder.glob("out*"))


def test_other_columns_are_an_error_only_in_the_first_row(runs, write_jsonl, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    rows = [ROW] * 20 + [{"question": "Hi"}] + [ROW] * 20
    assert runs.preprocess(write_jsonl(rows), workers=2).ledger.rejected == {"no column 'instruction'": 1}
    with pytest.raises(DataError) as error:
        runs.preprocess(write_jsonl([{"question": "Hi"}, *rows], "b.jsonl"), "b", workers=2)
    assert error.value.code == "SP110"


def test_results_come_in_the_order_of_the_shards():
    def work(shard: Shard) -> int:
        time.sleep(0.03 * (shard.index % 3 == 0))
        return shard.first_line

    assert list(run_on_shards(parts(25), work, workers=3)) == [10 * number + 1 for number in range(25)]


def test_shards_are_not_taken_far_ahead_of_a_slow_one():
    taken: list[int] = []

    def supply() -> Iterator[Shard]:
        for shard in parts(40):
            taken.append(shard.index)
            yield shard

    def work(shard: Shard) -> int:
        time.sleep(0.2 if shard.index == 0 else 0)
        return shard.index

    results = run_on_shards(supply(), work, workers=2)
    assert next(results) == 0
    assert len(taken) <= 2 * 4 + 1
    results.close()


def test_a_shard_of_a_killed_worker_is_done_again(tmp_path):
    def work(shard: Shard) -> int:
        mark = tmp_path / str(shard.index)
        if shard.index == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return shard.index

    assert list(run_on_shards(parts(6), work, workers=2)) == list(range(6))
    assert (tmp_path / "2").exists()


def test_a_worker_that_stands_still_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.4)

    def work(shard: Shard) -> int:
        mark = tmp_path / "still"
        if shard.index == 2 and not mark.exists():
            mark.touch()
            time.sleep(60)
        return shard.index

    started = time.monotonic()
    assert list(run_on_shards(parts(6), work, workers=2)) == list(range(6))
    assert (tmp_path / "still").exists() and time.monotonic() - started < 30


def test_a_worker_that_works_long_is_left_alone(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.4)
    pids = []

    def work(shard: Shard) -> int:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
        return os.getpid()

    pids = list(run_on_shards(parts(1), work, workers=1))
    assert len(pids) == 1


def test_a_shard_that_kills_every_worker_is_named():
    def work(shard: Shard) -> int:
        if shard.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return shard.index

    with pytest.raises(DeviceError, match=r"2 workers died .*SIGKILL.* data\.jsonl:21 on") as error:
        list(run_on_shards(parts(6), work, workers=2))
    assert error.value.code == "SP505"


def test_a_killed_worker_does_not_show(runs, mixed, tmp_path, tokenizer_dir, monkeypatch):
    from seqpack.pipeline.parts import PartWriter

    runs.preprocess(mixed, max_drop=1.0, workers=1)
    monkeypatch.setattr(shards, "SHARD_BYTES", 700)
    add, mark, main = PartWriter.add, tmp_path / "killed", os.getpid()

    def add_and_die(self, name, values) -> None:
        add(self, name, values)
        if os.getpid() != main and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(PartWriter, "add", add_and_die)
    other = Runs(tmp_path / "other", tokenizer_dir)
    other.preprocess(mixed, max_drop=1.0, workers=2)
    assert mark.exists() and runs.files() == other.files()


def test_a_bug_in_a_worker_looks_like_one():
    def work(shard: Shard) -> int:
        raise KeyError("a bug")

    with pytest.raises(WorkerBug, match="KeyError: 'a bug'"):
        list(run_on_shards(parts(3), work, workers=2))


def test_errors_keep_what_they_say():
    def work(shard: Shard) -> int:
        raise OSError(28, "No space left on device", "x.bin")

    with pytest.raises(OSError, match="No space left") as error:
        list(run_on_shards(parts(3), work, workers=2))
    assert error.value.errno == 28


def test_an_error_of_cutting_comes_after_the_shards_before_it():
    def supply() -> Iterator[Shard]:
        yield from parts(3)
        raise DataError("SP103", "x is damaged")

    results = run_on_shards(supply(), lambda shard: shard.index, workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="x is damaged"):
        next(results)


def test_an_interrupt_ends_all_workers(monkeypatch):
    monkeypatch.setattr(workers, "wait", lambda pipes, timeout: (_ for _ in ()).throw(KeyboardInterrupt))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_on_shards(parts(4), lambda shard: time.sleep(60), workers=2))
    assert time.monotonic() - started < 20


def test_a_worker_ends_when_its_main_process_is_gone(tmp_path):
    main = os.fork()
    if main == 0:
        with contextlib.suppress(BaseException):
            parent = os.getpid()

            def work(shard: Shard) -> None:
                (tmp_path / str(os.getpid())).touch()
                while True:
                    time.sleep(0.01)
                    stop_if_orphaned(parent)

            list(run_on_shards(parts(4), work, workers=2))
        os._exit(1)
    deadline = time.monotonic() + 20
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(main, signal.SIGKILL)
    os.waitpid(main, 0)
    assert len(pids) == 2
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
