"""``--ray``, with a stand-in for Ray: tasks run here, and what they take and give is pickled on the way."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError, DataError, DeviceError
from seqpack.io import shards
from seqpack.options.data import WorkOptions
from seqpack.pipeline import remote

from .conftest import Runs

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
MODES = [
    {"handler": "alpaca"},
    {"handler": "alpaca", "neat_pack": True, "seq_length": 64},
    {"handler": "text"},
    {"handler": "pairwise"},
]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeRay(types.ModuleType):
    """What ``remote`` uses of Ray; ``deaths`` are errors that the next results come as."""

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        super().__init__("ray")
        self.calls: list[str] = []
        self.num_tasks = self.most_waiting = self.num_waiting = 0
        self.options: dict[str, Any] = {}
        self.deaths: list[Exception] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.calls.append("init")
        self.options = options

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        assert options == {"max_retries": remote.RETRIES}
        return lambda task: types.SimpleNamespace(remote=lambda *args: self._start(pickle.dumps((task, args))))

    def _start(self, call: bytes) -> bytes:
        self.num_tasks += 1
        self.num_waiting += 1
        self.most_waiting = max(self.most_waiting, self.num_waiting)
        return call

    def get(self, call: bytes) -> Any:
        self.num_waiting -= 1
        if self.deaths:
            raise self.deaths.pop()
        task, args = pickle.loads(call)
        try:
            return pickle.loads(pickle.dumps(task(*args)))
        except Exception as error:
            raise RayTaskError(pickle.loads(pickle.dumps(error))) from None


@pytest.fixture
def ray(monkeypatch, tmp_path) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(shards, "SHARD_BYTES", 400)
    monkeypatch.chdir(tmp_path)  # tasks change the folder
    remote._maker.cache_clear()
    return fake


@pytest.fixture
def rows(write_jsonl) -> Path:
    return write_jsonl(
        [
            ROW | {"output": f"{n} times. " * (n % 5 + 1), "text": f"text {n}", "chosen": "Yes", "rejected": "No"}
            for n in range(40)
        ]
    )


@pytest.mark.parametrize("mode", MODES, ids=["plain", "neat", "text", "pairs"])
def test_the_bytes_are_those_of_one_process(ray, runs, rows, tmp_path, tokenizer_dir, mode):
    runs.preprocess(rows, **mode, workers=1)
    other = Runs(tmp_path / "other", tokenizer_dir)
    result = other.preprocess(rows, **mode, ray=True, workers=2)
    assert result.ledger.kept.samples == 40 and ray.num_tasks > 5
    assert ray.calls == ["init", "shutdown"] and ray.options == {"log_to_driver": False, "num_cpus": 2}
    mine, theirs = ({name: data for name, data in each.files().items() if "json" not in name} for each in (runs, other))
    assert mine == theirs and len(mine) > 2


def test_a_lost_worker_is_named_and_tasks_do_not_pile_up(ray, runs, rows, monkeypatch):
    monkeypatch.setattr(remote, "TASKS_AHEAD", 3)
    ray.deaths = [RayError("the worker died")]
    with pytest.raises(DeviceError, match=r"gave up on the rows from .*data.jsonl:1 on") as error:
        runs.preprocess(rows, handler="alpaca", ray=True)
    assert error.value.code == "SP505" and ray.calls == ["init", "shutdown"]
    ray.num_waiting = ray.most_waiting = 0
    runs.preprocess(rows, handler="alpaca", ray=True)
    assert ray.most_waiting == 3


def test_an_error_of_the_data_is_that_error(ray, runs, rows):
    rows.write_text(rows.read_text() + "{\n" + rows.read_text())
    with pytest.raises(DataError, match=r"data.jsonl:41 is not valid JSON") as error:
        runs.preprocess(rows, handler="alpaca", ray=True)
    assert error.value.code == "SP103"


def test_only_missing_parts_are_made(ray, runs, rows):
    text = rows.read_text()
    rows.write_text(text.replace("39 times", "\\x times"))  # the last part fails
    with pytest.raises(DataError):
        runs.preprocess(rows, handler="alpaca", ray=True)
    before = ray.num_tasks
    with pytest.raises(DataError):
        runs.preprocess(rows, handler="alpaca", ray=True)
    assert ray.num_tasks - before == 1


def test_the_cluster_of_the_environment_has_its_own_processors(ray, runs, rows, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    runs.preprocess(rows, handler="alpaca", ray=True, workers=2)
    assert ray.options == {"log_to_driver": False}


def test_what_does_not_go_with_ray(ray, runs, write_jsonl, monkeypatch):
    with pytest.raises(ConfigError, match="--ray and --shard-index") as error:
        WorkOptions(ray=True, shard_index=0, num_shards=2)
    assert error.value.code == "SP030"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DeviceError, match="not installed") as missing:
        runs.preprocess(write_jsonl([ROW]), ray=True)
    assert missing.value.code == "SP509"
