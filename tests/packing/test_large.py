"""What is done part by part, so that memory stays small, does not depend on the parts; and memory stays small."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.hooks.host import PluginHost
from seqpack.packing.epochs import for_epoch
from seqpack.packing.lengths import stable_order
from seqpack.packing.planning import make_plan
from seqpack.packing.quality import assess

PARTS = {
    "seqpack.core.plan": "PIECES_AT_A_TIME",
    "seqpack.packing.lengths": "AT_A_TIME",
    "seqpack.packing.patterns": "PLACES_AT_A_TIME",
    "seqpack.packing.planning": "CHECKED_AT_A_TIME",
    "seqpack.packing.validate": "PIECES_AT_A_TIME",
    "seqpack.packing.wrapped": "ROWS_AT_A_TIME",
    "seqpack.packing.sequential": "ROWS_AT_A_TIME",
}
ROWS = 3_000_000
MEASURE = f"""
import sys
import numpy as np
from seqpack.hooks.host import PluginHost
from seqpack.packing.planning import make_plan
def peak():  # not ru_maxrss, which begins with that of the parent process
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
strategy = PluginHost([]).strategy(sys.argv[1])
strategy.load()
lengths = np.load(sys.argv[2], mmap_mode="r")
make_plan(strategy, lengths[:1000], seq_length=2048, seed=0)
before = peak()
make_plan(strategy, lengths, seq_length=2048, seed=0)
print((peak() - before) / {ROWS})
"""


@pytest.mark.parametrize("strategy", [s for s in PluginHost([]).strategies if s.name != "stream"], ids=lambda s: s.name)
def test_parts_do_not_show(strategy, monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 70, 400).astype(np.uint16)

    def made():
        plan = make_plan(strategy, lengths, seq_length=64, seed=1, split=True)
        return [plan.sample.tolist(), plan.offsets.tolist(), plan.length.tolist(), plan.start.tolist(), assess(plan)]

    whole = made()
    for module, name in PARTS.items():
        monkeypatch.setattr(importlib.import_module(module), name, 7)
    parts = made()
    assert parts[:4] == whole[:4]
    assert parts[4].to_dict() == pytest.approx(whole[4].to_dict())


@given(st.lists(st.integers(0, (1 << 34) - 1), max_size=50), st.sampled_from([1 << 16, 1 << 20, 1 << 34]))
def test_sorting_is_stable_whatever_the_width(values, limit):
    array = np.array([value % limit for value in values], np.int64)
    assert stable_order(array, limit).tolist() == np.argsort(array, kind="stable").tolist()


@given(lengths=st.lists(st.integers(1, 200_000), max_size=30))
@settings(deadline=None, max_examples=15)
def test_packs_longer_than_16_bits_can_count(lengths):
    array = np.array(lengths, np.int32)
    for strategy in PluginHost([]).strategies:
        if strategy.name != "optimal":
            plan = make_plan(strategy, array, seq_length=200_000, seed=0)
            assert for_epoch(plan, 1, seed=0).fill().sum() == array.sum()


@pytest.mark.parametrize("name", ["balanced", "bfd"])
def test_a_plan_takes_few_bytes_per_sample(name, tmp_path):
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1, ROWS), 1, 2048).astype(np.uint16)
    np.save(tmp_path / "lengths.npy", lengths)
    command = [sys.executable, "-c", MEASURE, name, str(tmp_path / "lengths.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 25  # 11, and some 20 MB whatever the number of samples
