"""Runs that end early, runs on several machines, runs that have nothing to do: the same files in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = 1500
KILLS = 20
SMALL_SHARDS = (
    "import seqpack.io.shards as shards; shards.SHARD_BYTES = 20_000; from seqpack.cli.app import main; main()"
)


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Two files of about 20 shards each, with rows of all fates."""
    rng = random.Random(7)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        with file.open("w") as out:
            for number in range(ROWS):
                words = " ".join(rng.choice(["water", "is", "cold", "and", "wet"]) for _ in range(rng.randrange(1, 90)))
                row = {"instruction": f"Say it {number}.", "input": "", "output": "" if number % 97 == 5 else words}
                out.write(json.dumps(row) + "\n")
    return files


def arguments(data: list[Path], tokenizer_dir: Path, prefix: Path, *flags: object) -> list[str]:
    listed = [*data, "--tokenizer", tokenizer_dir, "--neat-pack", "--seq-length", 128, "-o", prefix, *flags]
    return [sys.executable, "-c", SMALL_SHARDS, "preprocess", *map(str, listed)]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)


def files_of(folder: Path, name: str = "x") -> dict[str, bytes]:
    """All files of a set but those that tell how it was made."""
    told = ("_manifest.json", "_resolved.yaml")
    found = {path.name: path.read_bytes() for path in folder.glob(f"{name}_packed*") if not path.name.endswith(told)}
    assert len(found) == 8
    return found


@pytest.fixture
def whole(data, tokenizer_dir, tmp_path) -> dict[str, bytes]:
    """The set of a run that nothing happened to."""
    done = run(arguments(data, tokenizer_dir, tmp_path / "whole" / "x", "--workers", 1))
    assert done.returncode == 0, done.stderr
    return files_of(tmp_path / "whole")


def test_kill_nine_at_random_moments(data, tokenizer_dir, tmp_path, whole):
    folder = tmp_path / "out"
    rng = random.Random(time.time_ns())
    command = arguments(data, tokenizer_dir, folder / "x", "--workers", 2)
    started = time.monotonic()
    assert run(arguments(data, tokenizer_dir, tmp_path / "timed" / "x", "--workers", 2)).returncode == 0
    usual = time.monotonic() - started
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 1.0) * usual)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            killed += 1
        manifest = folder / "x_packed_manifest.json"
        if manifest.exists():  # it vouches for the rest, whenever it is there
            assert files_of(folder) == whole
            for path in folder.glob("x*"):
                path.unlink()
    assert killed >= KILLS // 4, "kills must hit running processes"
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert files_of(folder) == whole
    assert not (folder / ".x.parts").exists()


def test_only_missing_parts_are_made_again(data, tokenizer_dir, tmp_path, whole):
    folder = tmp_path / "out"
    broken = [data[0], tmp_path / "broken.jsonl"]
    broken[1].write_text(data[1].read_text().replace('"Say it 900."', '"Say it 900.', 1))
    first = run(arguments(broken, tokenizer_dir, folder / "x", "--workers", 1))
    assert first.returncode == 3 and "broken.jsonl:901" in first.stderr
    assert "finished parts are kept" in first.stdout
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / ".x.parts").glob("*.done.json")}
    assert len(kept) > 10
    made = len(list((folder / ".x.parts").glob("*.done.json")))
    broken[1].write_bytes(data[1].read_bytes())
    again = run(arguments(broken, tokenizer_dir, folder / "x", "--workers", 1))
    assert again.returncode == 0, again.stderr
    assert f"{made} parts are finished" in again.stdout
    named = {name: content for name, content in files_of(folder).items() if not name.endswith((".arrow", ".jsonl"))}
    assert named == {name: whole[name] for name in named}


def test_parts_of_another_template_are_not_used(data, tokenizer_dir, tmp_path, whole):
    folder = tmp_path / "out"
    share = arguments(
        data, tokenizer_dir, folder / "x", "--prompt-type", "alpaca", "--shard-index", 0, "--num-shards", 2
    )
    assert run(share).returncode == 0
    done = run(arguments(data, tokenizer_dir, folder / "x"))
    assert done.returncode == 0, done.stderr
    assert "are not used (SP301): prompt type: alpaca -> qwen" in done.stdout
    assert files_of(folder) == whole


@pytest.mark.parametrize("how", ["flags", "slurm", "torchrun"])
def test_shares_and_merge_make_the_same_files(data, tokenizer_dir, tmp_path, whole, how):
    folder = tmp_path / "out"
    shares = []
    for index in (2, 0, 1):
        if how == "flags":
            flags: tuple[object, ...] = ("--shard-index", index, "--num-shards", 3)
            variables = {}
        elif how == "slurm":
            flags, variables = (), {"SLURM_PROCID": str(index), "SLURM_NTASKS": "3"}
        else:
            flags, variables = (), {"RANK": str(index), "WORLD_SIZE": "3"}
        if index == 1:
            early = run([sys.executable, "-m", "seqpack", "merge", str(folder / "x")])
            assert early.returncode == 3 and "parts in" in early.stderr and "are missing" in early.stderr
        shares.append(run(arguments(data, tokenizer_dir, folder / "x", *flags), **variables))
    assert [share.returncode for share in shares] == [0, 0, 0], shares
    assert f"seqpack merge {folder / 'x'}" in shares[0].stdout.replace("\n", " ")
    assert not list(folder.glob("x*"))
    merged = run([sys.executable, "-c", SMALL_SHARDS, "merge", str(folder / "x")])
    assert merged.returncode == 0, merged.stderr
    assert files_of(folder) == whole
    nothing = run([sys.executable, "-m", "seqpack", "merge", str(folder / "x")])
    assert nothing.returncode == 3 and "error[SP304]" in nothing.stderr


def test_a_share_that_cannot_be(data, tokenizer_dir, tmp_path):
    for flags in (("--shard-index", 3, "--num-shards", 3), ("--num-shards", 3), ("--shard-index", 1)):
        done = run(arguments(data, tokenizer_dir, tmp_path / "x", *flags))
        assert done.returncode == 2 and "error[SP030]" in done.stderr, flags


def test_two_runs_do_not_write_to_one_output(data, tokenizer_dir, tmp_path):
    import fcntl

    folder = tmp_path / ".x.parts"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(arguments(data, tokenizer_dir, tmp_path / "x"))
    assert done.returncode == 2 and "error[SP303]" in done.stderr


def test_up_to_date(data, tokenizer_dir, tmp_path):
    folder = tmp_path / "out"
    command = arguments(data, tokenizer_dir, folder / "x")
    assert run(command).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = run(command)
    assert done.returncode == 0 and "up to date" in done.stdout
    os.utime(data[0])  # another time, the same content
    assert run([*command, "--workers", "1"]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


CHANGES = {
    "template": (("--prompt-type", "alpaca"), "prompt type: qwen -> alpaca"),
    "label choice": (("--train-on", "last"), "train on: assistant -> last"),
    "handler": (("--handler", "general"), "handler: AlpacaStyleInstructionHandler -> GeneralInstructionHandler"),
    "length": (("--seq-length", "256"), "seq length: 128 -> 256"),
    "columns": (("--map-keys", '{"query": null}'), "map keys: query: not given -> none"),
    "seed": (("--seed", "7"), "packing: seed: 1234 -> 7"),
    "dedup": (("--dedup", "exact"), "dedup: none -> exact"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_named(data, tokenizer_dir, tmp_path, change):
    flags, phrase = CHANGES[change]
    if change == "handler":
        flags = ("--handler", "GeneralInstructionHandler")
    folder = tmp_path / "out"
    assert run(arguments(data[:1], tokenizer_dir, folder / "x")).returncode == 0
    before = files_of(folder)
    done = run(arguments(data[:1], tokenizer_dir, folder / "x", *flags))
    assert done.returncode == 2 and "error[SP301]" in done.stderr, done.stderr
    assert phrase in done.stderr
    assert files_of(folder) == before


def test_a_changed_file_and_template_text_are_named(data, tokenizer_dir, tmp_path):
    folder = tmp_path / "out"
    template = tmp_path / "mine.yaml"
    template.write_text('# Mine\nuser: "Q: {{content}}\\nA: "\nassistant: "{{content}}{{eos}}"\n')
    flags = ("--prompt-type-path", template, "--prompt-type", "mine")
    assert run(arguments(data[:1], tokenizer_dir, folder / "x", *flags)).returncode == 0
    template.write_text('# Mine\nuser: "Q: {{content}}\\nB: "\nassistant: "{{content}}{{eos}}"\n')
    with data[0].open("a") as file:
        file.write('{"instruction": "One", "output": "more"}\n')
    done = run(arguments(data[:1], tokenizer_dir, folder / "x", *flags))
    assert done.returncode == 2
    assert "template (text differs at line 2)" in done.stderr and f"input {data[0]} has changed" in done.stderr
