"""Plans in files come back as they were, and are refused for other data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError, FormatError
from seqpack.hooks.host import PluginHost
from seqpack.packing.planning import make_plan
from seqpack.packing.saved import PlanRecord, fingerprint_of, read_plans, write_plan

STRATEGIES = {strategy.name: strategy for strategy in PluginHost([]).strategies}
LENGTHS = np.array([3, 7, 2, 8, 5], np.int32)


def read_plan(path, lengths):
    (found,) = read_plans([path], {"it": lengths}).values()
    return found.plan, found.record


@pytest.mark.parametrize("name", ["bfd", "wrapped"])
def test_a_plan_comes_back(tmp_path, name):
    plan = make_plan(STRATEGIES[name], LENGTHS, seq_length=8, seed=1)
    record = PlanRecord.of(LENGTHS, name, 8, {"seed": 1})
    write_plan(tmp_path / "plan.npz", plan, record)
    again, read = read_plan(tmp_path / "plan.npz", LENGTHS.astype(np.uint16))
    assert read == record
    for array in ("sample", "offsets", "start", "length"):
        assert getattr(again, array).tolist() == getattr(plan, array).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["plan.npz"]


def test_the_same_plan_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        plan = make_plan(STRATEGIES["balanced"], LENGTHS, seq_length=8, seed=1)
        write_plan(tmp_path / name, plan, PlanRecord.of(LENGTHS, "balanced", 8, {}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plan_for_other_data_is_refused(tmp_path):
    plan = make_plan(STRATEGIES["bfd"], LENGTHS, seq_length=8, seed=1)
    write_plan(tmp_path / "plan", plan, PlanRecord.of(LENGTHS, "bfd", 8, {}))
    for other in (LENGTHS[::-1], LENGTHS[:-1], np.append(LENGTHS, 1)):
        with pytest.raises(DataError, match="for other data") as error:
            read_plan(tmp_path / "plan", other)
        assert error.value.code == "SP117"


def test_each_set_gets_the_plan_that_is_for_it(tmp_path):
    sets = {"twin": LENGTHS, "other": LENGTHS[::-1], "none": LENGTHS[1:], "brother": LENGTHS}
    for name, seed in (("other", 1), ("twin", 2), ("brother", 3)):
        plan = make_plan(STRATEGIES["bfd"], sets[name], seq_length=8, seed=seed)
        write_plan(tmp_path / name, plan, PlanRecord.of(sets[name], "bfd", 8, {"seed": seed}))
    files = [tmp_path / name for name in ("other", "twin", "brother")]
    found = read_plans(files, sets)
    assert {name: saved.path.name for name, saved in found.items()} == {name: name for name in sets if name != "none"}
    assert all(found[name].plan.lengths is sets[name] for name in found)
    with pytest.raises(DataError, match=r"twin and .*twin are plans for the same set, twin") as error:
        read_plans([tmp_path / "twin"] * 2, {"twin": LENGTHS})
    assert error.value.code == "SP117"


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nothing is missing") as error:
        read_plan(tmp_path / "nothing", LENGTHS)
    assert error.value.code == "SP101"


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: b"", lambda data: data.replace(b"sample.npy", b"samplf.npy")]
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    plan = make_plan(STRATEGIES["bfd"], LENGTHS, seq_length=8, seed=1)
    write_plan(tmp_path / "plan", plan, PlanRecord.of(LENGTHS, "bfd", 8, {}))
    (tmp_path / "plan").write_bytes(damage((tmp_path / "plan").read_bytes()))
    with pytest.raises(FormatError) as error:
        read_plan(tmp_path / "plan", LENGTHS)
    assert error.value.code == "SP105"


def test_a_changed_plan_is_refused(tmp_path):
    plan = make_plan(STRATEGIES["bfd"], LENGTHS, seq_length=8, seed=1)
    write_plan(tmp_path / "plan", plan, PlanRecord.of(LENGTHS, "bfd", 8, {}))
    with np.load(tmp_path / "plan") as file:
        arrays = dict(file)
    arrays["sample"] = arrays["sample"][::-1]
    with (tmp_path / "plan").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(FormatError, match="damaged"):
        read_plan(tmp_path / "plan", LENGTHS)


@given(st.lists(st.integers(1, 60_000), max_size=30))
def test_fingerprints_do_not_depend_on_the_width_of_integers(lengths):
    assert len({fingerprint_of(np.array(lengths, kind)) for kind in (np.int64, np.int32, np.uint16)}) == 1


def test_every_option_is_in_the_fingerprint():
    records = [
        PlanRecord.of(LENGTHS, "bfd", 8, {"seed": 1}),
        PlanRecord.of(LENGTHS, "bfd", 8, {"seed": 2}),
        PlanRecord.of(LENGTHS, "bfd", 9, {"seed": 1}),
        PlanRecord.of(LENGTHS, "ffd", 8, {"seed": 1}),
        PlanRecord.of(LENGTHS[1:], "bfd", 8, {"seed": 1}),
    ]
    assert len({record.fingerprint for record in records}) == len(records)


def test_plans_are_equal_on_every_machine():
    """A golden plan: if this changes, PLANNER_VERSION must."""
    lengths = np.random.default_rng(5).integers(1, 60, 200)
    found = {
        name: fingerprint_of(np.concatenate([plan.sample, plan.offsets]))[:8]
        for name, strategy in STRATEGIES.items()
        if name in GOLDEN and (plan := make_plan(strategy, lengths, seq_length=64, seed=3))
    }
    assert found == GOLDEN


GOLDEN = {
    "balanced": "632871a6",
    "bfd": "ebd754da",
    "exact": "ebd754da",
    "ffd": "850f68ec",
    "sequential": "9951a0c6",
    "shuffle": "f79b692a",
    "stream": "ebd754da",
    "wrapped": "21705924",
}
