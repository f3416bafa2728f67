"""From a strategy's name to a plan that is known to be right, whoever wrote the strategy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import PluginError
from seqpack.core.plan import PackPlan
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PackingStrategy


def make_plan(
    strategy: Component[PackingStrategy], lengths: NDArray[np.integer], *, seq_length: int, seed: int
) -> PackPlan:
    """Plan and check: every sample placed once and whole, no pack over ``seq_length``, none empty.

    Raises PluginError, naming the plugin, if the plan is not right or the strategy fails.
    """
    make: Callable[[], PackingStrategy] = strategy.load()
    own: NDArray[np.int64] = lengths.astype(np.int64)  # a strategy that sorts them in place would mix up the data
    own.flags.writeable = False
    try:
        plan = make().plan(own, seq_length=seq_length, rng=np.random.default_rng(seed))
        problem = find_problem(plan, lengths, seq_length=seq_length)
    except Exception as error:
        problem = f"it failed with {type(error).__name__}: {error}"
    if problem:
        raise PluginError(
            "SP014",
            f"the plan of strategy {strategy.name!r} (plugin {strategy.plugin!r}) is wrong: {problem}",
            help="choose another --strategy, and tell the plugin's author",
        )
    return plan


def find_problem(plan: PackPlan, lengths: NDArray[np.integer], *, seq_length: int) -> str:
    """What is wrong with a plan of whole samples, or an empty string."""
    if plan.seq_length != seq_length:
        return f"it is for --seq-length {plan.seq_length}, not {seq_length}"
    if any(array.dtype.kind not in "iu" for array in (plan.sample, plan.start, plan.length, plan.offsets)):
        return "its arrays must hold integers"
    if len(plan.offsets) == 0 or plan.offsets[0] != 0 or plan.offsets[-1] != len(plan.sample):
        return "its offsets do not run from 0 to the number of pieces"
    if (np.diff(plan.offsets) < 1).any():
        return "a pack is empty"
    if not np.array_equal(np.sort(plan.sample), np.arange(len(lengths))):
        return f"it must place each of {len(lengths)} samples exactly once"
    if not (
        np.array_equal(plan.start, np.zeros_like(plan.sample)) and np.array_equal(plan.length, lengths[plan.sample])
    ):
        return "it places less or more than a whole sample"
    if len(plan) and plan.fill().max() > seq_length:
        return f"pack {int(plan.fill().argmax())} holds {int(plan.fill().max())} tokens, --seq-length is {seq_length}"
    return ""
