"""Killed or out of disk in the middle of writing: nothing is left that looks finished."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SLOW_PLUGIN = """
import time
from seqpack.api import Component, Message, Sample, hookimpl

class Slow:
    def __init__(self, columns):
        self.rows = 0

    def __call__(self, record):
        self.rows += 1
        if self.rows > 2700:  # a batch has been written, whether or not an engine looked at rows before
            time.sleep(60)
        yield Sample((Message("user", record["instruction"]), Message("assistant", record["output"])))

@hookimpl
def seqpack_handlers():
    yield Component("slow", "slow_plugin:Slow", "sleeps after the first batch")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the plugin ``slow`` is installed."""
    site = tmp_path / "site"
    info = site / "slow_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "slow_plugin.py").write_text(SLOW_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[seqpack]\nslow = slow_plugin\n")
    return {**os.environ, "PYTHONPATH": str(site)}


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    path = tmp_path / "long.jsonl"
    path.write_text(('{"instruction": "Say it.", "output": "' + "it is said " * 100 + '"}\n') * 3500)
    return path


def command(data: Path, tokenizer_dir: Path, prefix: Path, *flags: str) -> list[str]:
    arguments = [data, "--tokenizer", tokenizer_dir, "--neat-pack", "--seq-length", 512, "-o", prefix, *flags]
    return [sys.executable, "-m", "seqpack", "preprocess", *map(str, arguments)]


@contextlib.contextmanager
def running(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not outlive the test, whatever happens in it."""
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def wait_for_parts(folder: Path) -> None:
    """Until something of a part is on the disk."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(path.stat().st_size for path in folder.glob(".x.parts/*.bin")):
            return
        time.sleep(0.02)
    pytest.fail("nothing was written within 60 s")


HOW = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("how", HOW)
def test_killed_in_the_first_part(long_file, tokenizer_dir, tmp_path, environment, how):
    folder = tmp_path / "out"
    with running(command(long_file, tokenizer_dir, folder / "x", "--handler", "slow"), environment) as process:
        wait_for_parts(folder)
        process.send_signal(how)
        assert process.wait(30) == HOW[how]
    assert not list(folder.glob("x*"))
    assert [path.name for path in folder.iterdir()] == ([".x.parts"] if how is signal.SIGKILL else [])

    done = subprocess.run(command(long_file, tokenizer_dir, folder / "x"), env=environment, check=False)
    assert done.returncode == 0
    assert (folder / "x_packed_manifest.json").exists()
    assert not (folder / ".x.parts").exists(), "what the killed run left must be cleared by the next"


@pytest.mark.parametrize("how", HOW)
def test_killed_with_workers(long_file, tokenizer_dir, tmp_path, environment, how):
    folder = tmp_path / "out"
    another = tmp_path / "another.jsonl"
    another.write_bytes(long_file.read_bytes())
    flags = ("--input", str(another), "--handler", "slow", "--workers", "2", "--tokenizer-engine", "tokenizers")
    arguments = command(long_file, tokenizer_dir, folder / "x", *flags)
    arguments[4:5] = ["--input", str(long_file)]
    with running(arguments, environment) as process:
        wait_for_parts(folder)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(how)
        code = process.wait(30)
    assert code == HOW[how]
    assert len(workers) == 2
    assert not list(folder.glob("x*"))
    assert bool(list(folder.iterdir())) == (how is signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.02)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_disk_full(long_file, tokenizer_dir, tmp_path, environment):
    def limit_file_size() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    folder = tmp_path / "out"
    done = subprocess.run(
        command(long_file, tokenizer_dir, folder / "x"),
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "error[SP503]" in done.stderr and "nothing was published" in done.stderr
    assert not list(folder.iterdir())


def test_overwriting_keeps_the_old_set_until_the_new_one_is_whole(long_file, tokenizer_dir, tmp_path, environment):
    folder = tmp_path / "out"
    subprocess.run(command(long_file, tokenizer_dir, folder / "x"), env=environment, check=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    slow = command(long_file, tokenizer_dir, folder / "x", "--handler", "slow", "--overwrite")
    with running(slow, environment):
        wait_for_parts(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
