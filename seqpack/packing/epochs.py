"""The same packs with other neighbours: one plan, a new pairing of samples for every epoch."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqpack.core.plan import PackPlan, index_dtype, round_up
from seqpack.packing.lengths import stable_order


def for_epoch(plan: PackPlan, epoch: int, *, seed: int) -> PackPlan:
    """``plan`` with samples of equal (aligned) length changing places at random, and packs in another order.

    The number of packs stays, so that steps per epoch do; epoch 0 is the plan itself. Depends on the plan, the epoch
    and the seed alone: every rank computes the same. A plan that cuts samples only changes its order. Samples of a
    length that no other has keep their pack but get other neighbours, since the short ones around them move. Linear;
    about 30 bytes per sample while it works.
    """
    if epoch == 0:
        return plan
    rng = np.random.default_rng([seed, epoch])
    if plan.cut_length is None:
        lengths = plan.lengths if plan.align == 1 else round_up(plan.lengths, plan.align)
        limit = plan.seq_length + 1
        kind = index_dtype(len(lengths))
        samples = np.arange(len(lengths), dtype=kind)
        rng.shuffle(samples)
        samples = samples[stable_order(lengths[samples], limit)]
        sample = np.empty_like(samples)
        sample[stable_order(lengths[plan.sample], limit)] = samples
        plan = dataclasses.replace(plan, sample=sample)
    return plan.shuffled(rng)
