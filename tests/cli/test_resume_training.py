"""``seqpack train --resume SAVE``: one word goes on with a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_interrupt_saves_and_says_how_to_go_on(cli, packed: Path, tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    from seqpack.report.training import TrainReporter

    def interrupt(self: TrainReporter, step: int, metrics: object) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainReporter, "log", interrupt)
        outcome = cli("train", packed, "--model", "tiny:qwen2", "--train-iters", 6, "--num-threads", 1, "--save", run)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == f"saved {run / 'step-3'}; go on with: seqpack train --resume {run}"
    assert not (run / "model").exists()
    outcome = cli("train", "--resume", run)
    assert outcome.code == 0, outcome.err
    assert f"goes on from {run / 'step-3'}" in outcome.out
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    assert (run / "model" / "config.json").is_file()
    assert "train_iters: 6  # config" in (run / "resolved.yaml").read_text()


def test_resume_needs_a_run(cli, tmp_path: Path) -> None:
    outcome = cli("train", "--resume", tmp_path)
    assert outcome.code == 2
    assert "SP209" in outcome.err and "resolved.yaml" in outcome.err


def test_resume_and_another_save(cli, packed: Path, tmp_path: Path) -> None:
    words = (packed, "--model", "tiny:qwen2", "--config", os.devnull)
    outcome = cli("train", *words, "--resume", tmp_path / "a", "--save", tmp_path / "b")
    assert outcome.code == 2
    assert "two directories" in outcome.err


def test_two_processes_on_the_command_line(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seqpack", "train", packed, "--model", "tiny:qwen2", "--train-iters", "3"]
    words = [*command, "--global-batch-size", "3", "--num-threads", "1", "--nproc", "2", "--save", tmp_path / "run"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dp 2" in done.stdout
    assert steps(tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert (tmp_path / "run" / "logs" / "rank-1.log").read_text() == ""


def test_a_metric_sink_that_is_not_installed(cli, packed: Path, tmp_path: Path) -> None:
    outcome = cli("train", packed, "--model", "tiny:qwen2", "--metrics", "tensorbord", "--save", tmp_path / "run")
    assert outcome.code == 2 and outcome.out == ""
    assert "no metric sink 'tensorbord'" in outcome.err and "no plugin with a metric sink is installed" in outcome.err
    assert not (tmp_path / "run").exists()
