"""A run that was stopped, killed or resumed ends exactly as one that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.core.errors import ConfigError
from seqpack.train.run import execute
from seqpack.train.stopping import RunStopped

from .conftest import WriteDataset
from .test_run import plan

PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2], [6, 3], [8]]
KILLS = 20
STEPS = {"epochs": 3, "global_batch_size": 2, "micro_batch_size": 1, "lr": 3e-3}


class Raise:
    """A sink that does something to the run after some step."""

    def __init__(self, step: int, signum: int = signal.SIGINT) -> None:
        self._step, self._signum = step, signum

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self._step:
            os.kill(os.getpid(), self._signum)

    def close(self) -> None: ...


def losses(run: Path) -> list[tuple[int, float, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"], line["lr"]) for line in lines]


def assert_same_run(run: Path, whole: Path) -> None:
    assert losses(run) == losses(whole)
    ours, wanted = (load_file(path / "model" / "model.safetensors") for path in (run, whole))
    assert all(torch.equal(ours[name], weight) for name, weight in wanted.items())


@pytest.mark.parametrize(
    ("dtype", "signum", "in_background"),
    [
        ("float32", signal.SIGINT, True),
        ("float32", signal.SIGTERM, False),
        ("bfloat16", signal.SIGTERM, True),
    ],
)
def test_stopped_twice_and_resumed(
    write_dataset: WriteDataset, tmp_path: Path, dtype: str, signum: signal.Signals, in_background: bool
) -> None:
    data, run, whole = write_dataset(PACKS, seq_length=10), tmp_path / "run", tmp_path / "whole"
    execute(plan(data, whole, dtype=dtype, **STEPS))
    handler = signal.getsignal(signum)
    for step in (3, 7):
        given = {**STEPS, "dtype": dtype, "async_save": in_background, "save_interval": 1}
        prepared = plan(data, run, resume=run if step > 3 else None, **given)
        with pytest.raises(RunStopped) as stopped:
            execute(prepared, sinks=[Raise(step, signum)])
        # The signal comes when the step is done already: the one after it is finished, then the run ends.
        assert (stopped.value.step, stopped.value.signum) == (step + 1, signum)
        assert stopped.value.saved == run / f"step-{step + 1}"
        assert signal.getsignal(signum) is handler
    last = plan(data, run, dtype=dtype, resume=run, **STEPS)
    assert last.summary().first_step == 8
    assert f"goes on from {run / 'step-8'}" in last.summary().notes
    result = execute(last)
    assert result.num_steps == len(losses(whole)) == 11
    assert_same_run(run, whole)


def test_resuming_a_finished_run_takes_no_step(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data, run = write_dataset(PACKS, seq_length=10), tmp_path / "run"
    first = execute(plan(data, run, save_interval=4, keep_last=0, **STEPS))
    before = losses(run)
    again = execute(plan(data, run, resume=run, save_interval=4, **STEPS))
    assert losses(run) == before
    assert (again.num_steps, again.last_loss, again.seconds) == (first.num_steps, first.last_loss, first.seconds)
    assert sorted(path.name for path in run.glob("step-*")) == ["step-11", "step-4", "step-8"]


def test_resume_without_a_checkpoint_starts_at_the_beginning(write_dataset: WriteDataset, tmp_path: Path) -> None:
    prepared = plan(write_dataset(PACKS), tmp_path / "run", resume=tmp_path / "run", train_iters=1)
    assert "no checkpoint yet: from the first step" in prepared.summary().notes
    assert execute(prepared).num_steps == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"seed": 5}, "--seed"), ({"global_batch_size": 3}, "--global-batch-size"), ({"model": "tiny:llama"}, "model")],
)
def test_going_on_with_something_else_is_refused(
    write_dataset: WriteDataset, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    data, run = write_dataset(PACKS, seq_length=10), tmp_path / "run"
    execute(plan(data, run, save_interval=4, **STEPS))
    with pytest.raises(ConfigError, match=f"another {named}") as raised:
        execute(plan(data, run, resume=run, **{**STEPS, **changed}))
    assert raised.value.code == "SP210"


def test_another_data_set_is_refused(write_dataset: WriteDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    execute(plan(write_dataset(PACKS, seq_length=10), run, save_interval=4, **STEPS))
    other = write_dataset([*PACKS[:-1], [7]], seq_length=10)
    with pytest.raises(ConfigError, match="another data set"):
        execute(plan(other, run, resume=run, **STEPS))


def train_here(data: Path, run: Path) -> None:
    torch.set_num_threads(1)
    execute(plan(data, run, resume=run, save_interval=1, **STEPS))


def steps_done(run: Path) -> int:
    """Lines of metrics, as a number that changes with every step the run takes."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(child: multiprocessing.process.BaseProcess, run: Path, steps: int, seconds: float) -> bool:
    """SIGKILL once the child has taken some steps and some time more; False if it came to its end before."""
    goal = steps_done(run) + steps
    while steps_done(run) < goal and child.is_alive():
        time.sleep(0.002)
    child.join(seconds)
    alive = child.is_alive()
    child.kill()
    child.join()
    assert alive or child.exitcode == 0, "the run failed by itself"
    return alive


def test_killed_at_random_moments(write_dataset: WriteDataset, tmp_path: Path) -> None:
    """SIGKILL at 20 moments of training, saving and exporting: half of the time of these runs goes into saving."""
    data, run, whole = write_dataset(PACKS, seq_length=10), tmp_path / "run", tmp_path / "whole"
    started = time.monotonic()
    execute(plan(data, whole, save_interval=1, **STEPS))
    a_step = (time.monotonic() - started) / len(losses(whole))
    # Processes that have imported torch already: importing it anew would take most of the time of this test.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers.models.qwen2.modeling_qwen2", "tests.train.test_resume"])
    moments, killed, reached = random.Random(0), 0, set()
    while killed < KILLS:
        child = context.Process(target=train_here, args=(data, run))
        child.start()
        if kill_after(child, run, moments.randint(0, 3), moments.uniform(0, 2 * a_step)):
            killed += 1
            reached.add(steps_done(run))
            continue
        assert_same_run(run, whole)
        shutil.rmtree(run)
    train_here(data, run)
    assert_same_run(run, whole)
    assert len(reached) > 3, "the kills came at too few different moments to show anything"
