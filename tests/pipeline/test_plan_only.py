"""Plans of sets: what packing would do, without tokens, for this set and no other."""

from __future__ import annotations

import numpy as np
import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.options.data import PlanOptions, RepackOptions, StrategyOptions
from seqpack.packing.saved import read_plans
from seqpack.pipeline.plan_only import plan_only


@pytest.mark.parametrize("strategy", ["balanced", "bfd", "stream"])
def test_a_plan_is_what_packing_makes(runs, alpaca, strategy):
    runs.preprocess(alpaca, "plain")
    runs.preprocess(alpaca, "packed", seq_length=128, neat_pack=True, strategy="ffd")
    made = runs.repack("plain", "again", seq_length=400, neat_pack=True, strategy=strategy)
    path = runs.folder / "plan.npz"
    result = plan_only(
        PlanOptions(plan_only=True, output=path),
        RepackOptions(source=runs.folder / "plain", seq_length=400),
        StrategyOptions(strategy=strategy),
    )
    (found,) = read_plans([path], {"plain": runs.open("plain").sample_lengths}).values()
    plan, record = found.plan, found.record
    again = runs.open("again")
    assert plan.sample.tolist() == again.pieces.sample.tolist() and plan.offsets.tolist() == again.offsets.tolist()
    assert record == result.record and result.quality.packs == made.manifest.num_rows
    with pytest.raises(DataError, match="for other data") as error:
        read_plans([path], {"packed": runs.open("packed").sample_lengths})  # its samples were cut to 128 tokens
    assert error.value.code == "SP117"


def test_a_plan_of_a_packed_set_is_in_the_order_of_the_raw_data(runs, alpaca):
    runs.preprocess(alpaca, "plain")
    runs.preprocess(alpaca, "packed", seq_length=400, neat_pack=True)
    plans = [
        plan_only(
            PlanOptions(plan_only=True), RepackOptions(source=runs.folder / name, seq_length=512), StrategyOptions()
        )
        for name in ("plain", "packed")
    ]
    assert plans[0].record.fingerprint == plans[1].record.fingerprint
    assert np.array_equal(plans[0].plan.sample, plans[1].plan.sample)


def test_a_plan_needs_something_to_plan():
    with pytest.raises(ConfigError, match="PREFIX is missing"):
        plan_only(PlanOptions(plan_only=True), RepackOptions(seq_length=512), StrategyOptions())
