"""``seqpack pack --lengths`` and ``--plan-only`` through the real command line."""

from __future__ import annotations

import numpy as np
import pytest

KEYS = {"packs", "lower_bound", "over", "fill", "design_effect", "cost_cv", "seconds", "fingerprint"}
NAMES = ["balanced", "bfd", "ffd", "exact", "optimal", "shuffle", "sequential", "wrapped", "stream"]


@pytest.fixture
def lengths(tmp_path):
    path = tmp_path / "lengths.npy"
    np.save(path, np.random.default_rng(0).integers(1, 100, 300).astype(np.uint16))
    return path


@pytest.mark.parametrize("strategy", NAMES)
def test_lengths_are_planned_and_measured(cli, lengths, strategy):
    outcome = cli("pack", "--lengths", lengths, "--seq-length", 128, "--strategy", strategy, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert set(found) >= KEYS
    assert found["packs"] >= found["lower_bound"] and found["samples"] == 300
    assert found["over"] == pytest.approx(found["packs"] / found["lower_bound"] - 1)


def test_the_plan_is_written_once(cli, lengths, tmp_path):
    command = ("pack", "--lengths", lengths, "--seq-length", 128, "--json", "--output", tmp_path / "plan.npz")
    first = cli(*command).json
    before = (tmp_path / "plan.npz").read_bytes()
    again = cli(*command)
    assert again.code == 2 and "SP004" in again.err
    replaced = cli(*command, "--overwrite").json
    assert (tmp_path / "plan.npz").read_bytes() == before and replaced["fingerprint"] == first["fingerprint"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([3, -1], "sample 1 has -1 tokens"),
        ([3, 0], "sample 1 has 0 tokens"),
        ([1.5, 2.0], "whole numbers"),
        ([[1, 2]], "in one row"),
        ([3, 200], "sample 1 has 200 tokens, --seq-length is 128"),
    ],
)
def test_lengths_that_cannot_be_planned(cli, tmp_path, values, words):
    np.save(tmp_path / "bad.npy", np.array(values))
    outcome = cli("pack", "--lengths", tmp_path / "bad.npy", "--seq-length", 128)
    assert outcome.code == 3 and words in " ".join(outcome.err.split())


def test_files_that_are_no_lengths(cli, tmp_path):
    (tmp_path / "text.npy").write_text("1 2 3")
    for name, code in (("text.npy", "SP105"), ("none.npy", "SP101")):
        outcome = cli("pack", "--lengths", tmp_path / name, "--seq-length", 128)
        assert outcome.code == 3 and code in outcome.err


def test_longer_samples_are_split_or_left_out(cli, tmp_path):
    np.save(tmp_path / "long.npy", np.array([3, 200, 5, 7]))
    command = ("pack", "--lengths", tmp_path / "long.npy", "--seq-length", 128, "--json", "--on-overlong")
    split = cli(*command, "split").json
    assert split["packs"] == 2 and split["dropped"] == 0
    assert cli(*command, "drop").code == 4
    dropped = cli(*command, "drop", "--max-drop", "0.5").json
    assert (dropped["packs"], dropped["dropped"], dropped["samples"]) == (1, 1, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--neat-pack",), "--neat-pack would do nothing"),
        (("--emit", "pai"), "--emit would do nothing"),
        (("--align", "3"), "multiple of --align"),
        (("--strategy", "wrapped", "--max-docs", "3"), "cannot limit"),
    ],
)
def test_flags_that_do_not_go_together(cli, lengths, flags, words):
    outcome = cli("pack", "--lengths", lengths, "--seq-length", 128, *flags)
    assert outcome.code == 2 and words in " ".join(outcome.err.split())


def test_a_capacity_of_one(cli, tmp_path):
    np.save(tmp_path / "ones.npy", np.ones(5, np.int32))
    assert cli("pack", "--lengths", tmp_path / "ones.npy", "--seq-length", 1, "--json").json["packs"] == 5


def test_train_reads_the_set_through_its_plan(cli, packed, tmp_path):
    plan, run = tmp_path / "plan.npz", tmp_path / "run"
    made = cli("pack", packed, "--plan-only", "--seq-length", 512, "--max-docs", 2, "-o", plan)
    assert f"next: seqpack train {packed} --plan {plan} --neat-pack" in made.out
    words = (
        "--model",
        "tiny:qwen2",
        "--train-iters",
        2,
        "--num-threads",
        1,
        "--global-batch-size",
        2,
        "--save-interval",
        1,
    )
    trained = cli("train", packed, "--plan", plan, "--neat-pack", *words, "--save", run)
    assert trained.code == 0, trained.err
    assert f"{packed} is read through a plan: {made.out.split()[0]} packs of 512 tokens" in " ".join(
        trained.out.split()
    )
    (run / "model" / "config.json").unlink()
    again = cli("train", "--resume", run)
    assert again.code == 0 and "is read through a plan" in " ".join(again.out.split()), again.err
    cli("pack", packed, "--plan-only", "--seq-length", 512, "--seed", 5, "-o", plan, "--overwrite")
    changed = cli("train", "--resume", run, "--train-iters", 3)
    assert changed.code != 0 and "data set" in changed.err
