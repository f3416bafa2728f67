"""A set read through a plan is the set that packing by this plan would have written."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from seqpack.core.errors import DataLossError
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.io.planned import PlannedDataset
from seqpack.options.data import PlanOptions, RepackOptions, StrategyOptions
from seqpack.packing.saved import read_plans
from seqpack.pipeline.plan_only import plan_only

from ..pipeline.conftest import Runs, alpaca, runs, take  # noqa: F401 - fixtures

CASES: dict[str, dict[str, Any]] = {
    "balanced": {"seq_length": 256},
    "causal": {"seq_length": 300, "neat_pack": False, "strategy": "ffd", "seed": 3},
    "aligned": {"seq_length": 256, "align": 16, "max_docs": 3},
    "windows": {"seq_length": 256, "pack_window": 9, "strategy": "bfd"},
    "cut": {"seq_length": 100, "strategy": "wrapped"},
    "split": {"seq_length": 100, "on_overlong": "split"},
    "dropped": {"seq_length": 100, "on_overlong": "drop", "max_drop": 1.0},
}


def through_a_plan(runs: Runs, source: str, **options: Any) -> PlannedDataset:  # noqa: F811
    path = runs.folder / "plan.npz"
    strategy = take(StrategyOptions, options)
    plan_only(
        PlanOptions(output=path, overwrite=True), take(RepackOptions, options, source=runs.folder / source), strategy
    )
    assert not options
    dataset = runs.open(source)
    (saved,) = read_plans([path], {"it": dataset.sample_lengths}).values()
    return PlannedDataset(
        dataset, saved.plan, strategy=saved.record.strategy, mask=strategy.mask_mode, packing=saved.record.options
    )


@pytest.mark.parametrize("source", ["plain", "packed", "parts"])
@pytest.mark.parametrize("case", CASES)
def test_the_same_rows_as_the_packs_on_disk(runs, alpaca, source, case):  # noqa: F811
    made = {"plain": {}, "packed": {"neat_pack": True}, "parts": {"neat_pack": True, "strategy": "wrapped"}}[source]
    runs.preprocess(alpaca, "source", **({"seq_length": 250} | made if made else {}))
    options = {"neat_pack": True} | CASES[case]
    runs.repack("source", "packs", **options)
    packs, planned = runs.open("packs"), through_a_plan(runs, "source", **options)
    assert len(planned) == len(packs) > 1
    for row, expected in zip(planned, packs, strict=True):
        for name in ("input_ids", "labels", "cu_seqlens", "real_lengths"):
            assert np.array_equal(getattr(row, name), getattr(expected, name)), name
        assert row.num_padding == expected.num_padding
    for field in dataclasses.fields(packs.pieces):
        assert np.array_equal(getattr(planned.pieces, field.name), getattr(packs.pieces, field.name)), field.name
    for name in ("row_lengths", "num_tokens", "num_targets", "num_samples", "offsets"):
        assert getattr(planned, name).tolist() == getattr(packs, name).tolist(), name
    assert planned.manifest == dataclasses.replace(packs.manifest, files=planned.manifest.files)
    planned.manifest.ledger.check()


def test_pieces_are_found_where_they_lie(runs, alpaca):  # noqa: F811
    runs.preprocess(alpaca, "source", seq_length=200)
    planned = through_a_plan(runs, "source", seq_length=256, neat_pack=True)
    for row in range(len(planned)):
        piece = int(planned.offsets[row])
        begin, length = int(planned.piece_starts[piece]), int(planned.pieces.length[piece])
        assert planned.tokens[begin : begin + length].tolist() == planned[row].input_ids[:length].tolist()
        assert planned.labels[begin : begin + length].tolist() == planned[row].labels[:length].tolist()
    assert (planned[-1].labels != IGNORE_INDEX).sum() == planned.num_targets[-1]
    with pytest.raises(IndexError):
        planned[len(planned)]


def test_the_source_keeps_its_ledger(runs, alpaca):  # noqa: F811
    made = runs.preprocess(alpaca, "source", seq_length=200)
    planned = through_a_plan(runs, "source", seq_length=100, on_overlong="drop", max_drop=1.0)
    assert planned.num_left_out == (runs.open("source").row_lengths > 100).sum() > 0
    assert planned.manifest.mask is MaskMode.CAUSAL
    assert runs.open("source").manifest.ledger == made.ledger
    with pytest.raises(DataLossError):
        through_a_plan(runs, "source", seq_length=100, on_overlong="drop")
