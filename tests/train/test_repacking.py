"""``--repack-epochs``: every epoch takes every sample once, in packs with other neighbours."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpack.core.errors import ConfigError
from seqpack.train.data import TrainData, open_data
from seqpack.train.run import execute

from .conftest import WriteDataset
from .test_data import flags
from .test_pack_plans import write_plan
from .test_run import plan

SAMPLES = [[2 + number % 5] for number in range(40)]


@pytest.fixture
def through(write_dataset: WriteDataset) -> dict[str, Any]:
    """What names a set of samples of few lengths, one of them without a label, and its plan."""
    source = write_dataset([*SAMPLES, [1], [1]], mask=None)
    return {"data_path": [str(source)], "plan": [write_plan(source)], "neat_pack": True, "repack_epochs": True}


def samples(data: TrainData, row: int) -> list[str]:
    """The samples of a row of any epoch, from what an error would call it."""
    return data.describe(row).partition("(")[2].rstrip(")").split(", ")


def pairs(data: TrainData, rows: range) -> set[tuple[str, ...]]:
    return {pair for row in rows for pair in combinations(sorted(samples(data, row)), 2)}


def test_every_sample_once_an_epoch_with_other_neighbours(through: dict[str, Any]) -> None:
    data = open_data(flags(*through.pop("data_path"), **through)).repacked(3)
    epochs = [range(epoch * len(data), (epoch + 1) * len(data)) for epoch in range(3)]
    for rows in epochs:
        assert sorted(key for row in rows for key in samples(data, row)) == sorted(
            f"made.jsonl:{number}" for number in range(1, len(SAMPLES) + 3)
        )
    for one, other in combinations(epochs, 2):
        kept = pairs(data, one) & pairs(data, other)
        assert len(kept) < 0.5 * len(pairs(data, one))
    assert len(data.num_targets) == len(data.num_tokens) == len(data.loss_units("sample")) == 3 * len(data)
    for row in range(3 * len(data)):
        assert data[row].is_real.sum() == data.num_tokens[row]


@pytest.mark.parametrize("given", [{"epochs": 2.5}, {"train_iters": 11, "padded_samples": True}], ids=str)
def test_the_header_says_what_happens(through: dict[str, Any], tmp_path: Path, given: dict[str, Any]) -> None:
    prepared = plan(tmp_path, tmp_path / "run", **through, **given, global_batch_size=3)
    summary, result = prepared.summary(), execute(prepared)
    assert (summary.num_tokens, summary.num_targets) == (result.num_tokens, result.num_targets)
    assert summary.num_steps == result.num_steps
    assert prepared.dataset.num_epochs == 3 and summary.num_rows == len(prepared.dataset)
    assert any("in every epoch" in note for note in summary.notes)


def test_several_sets_with_weights(through: dict[str, Any], write_dataset: WriteDataset, tmp_path: Path) -> None:
    other = write_dataset([[4, 4], [9]], seq_length=12)
    paths = ["3", *through.pop("data_path"), "1", str(other)]
    prepared = plan(tmp_path, tmp_path / "run", data_path=paths, train_iters=9, global_batch_size=4, **through)
    summary, result = prepared.summary(), execute(prepared)
    assert (summary.num_tokens, summary.num_targets) == (result.num_tokens, result.num_targets)


def test_what_is_kept_back_is_never_trained_on(through: dict[str, Any]) -> None:
    data = open_data(flags(*through.pop("data_path"), split="70,30", **through)).repacked(4)
    (trained,), (kept_back,) = data.pools(), data.pools(1)
    held_out = {key for row in kept_back for key in samples(data, int(row))}
    for epoch in range(4):
        seen = {key for row in trained for key in samples(data, int(row) + epoch * data.epoch_shift)}
        assert held_out and not held_out & seen


def test_rows_without_a_trained_token_are_the_same_in_every_epoch(write_dataset: WriteDataset) -> None:
    source = write_dataset([[3]] * 12 + [[1]] * 6, mask=None)
    made = write_plan(source, seq_length=3, strategy="sequential")
    data = open_data(flags(source, plan=[made], neat_pack=True, repack_epochs=True)).repacked(5)
    targets = data.num_targets.reshape(5, -1)
    assert (targets == 0).any() and np.array_equal(targets > 0, np.tile(targets[0] > 0, (5, 1)))


def test_epochs_are_the_same_in_every_process_and_not_in_every_run(through: dict[str, Any]) -> None:
    path = through.pop("data_path")[0]
    one, same, other = (open_data(flags(path, seed=seed, **through)).repacked(2) for seed in (7, 7, 8))
    rows = range(len(one), 2 * len(one))
    assert [one.describe(row) for row in rows] == [same.describe(row) for row in rows]
    assert [one.describe(row) for row in rows] != [other.describe(row) for row in rows]
    plain = open_data(flags(path, **through | {"repack_epochs": False}))
    assert one.digest() == same.digest() == open_data(flags(path, seed=7, **through)).digest() != plain.digest()


def test_what_cannot_be_packed_again(write_dataset: WriteDataset) -> None:
    packs, source = write_dataset([[5, 4]], seq_length=12), write_dataset([[30], [3]], mask=None)
    cutting = write_plan(source, strategy="wrapped")
    for given, words in (
        (flags(packs, repack_epochs=True), "no set is read through one"),
        (flags(source, plan=[cutting], neat_pack=True, repack_epochs=True), "cuts samples"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            open_data(given)
        assert raised.value.code == "SP208"
