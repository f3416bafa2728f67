"""What is wrong with a plan, in words; a few passes over its arrays, a byte per sample."""

from __future__ import annotations

import numpy as np

from seqpack.core.plan import PIECES_AT_A_TIME, Integers, PackPlan


def find_problem(
    plan: PackPlan, lengths: Integers, *, seq_length: int, cuts: bool = False, max_docs: int | None = None
) -> str:
    """What is wrong with a plan for samples of these lengths, or an empty string; only with ``cuts`` may it cut any."""
    problem = _find_wrong_arrays(plan, seq_length)
    if problem:
        return problem
    if plan.cut_start is None and plan.cut_length is None:
        problem = _find_misplaced(plan, len(lengths))
    elif not cuts:
        problem = "it cuts samples, and does not state cuts_samples"
    else:
        problem = _find_wrong_cuts(plan, lengths)
    if problem or not len(plan):
        return problem
    taken = plan.taken()
    if taken.max() > seq_length:
        return f"pack {int(taken.argmax())} holds {int(taken.max())} tokens, --seq-length is {seq_length}"
    most = int(np.diff(plan.offsets).max())
    if max_docs is not None and most > max_docs:
        return f"a pack holds {most} samples, --max-docs is {max_docs}"
    return ""


def _find_wrong_arrays(plan: PackPlan, seq_length: int) -> str:
    if plan.seq_length != seq_length:
        return f"it is for --seq-length {plan.seq_length}, not {seq_length}"
    cuts = [array for array in (plan.cut_start, plan.cut_length) if array is not None]
    if any(array.dtype.kind not in "iu" for array in (plan.sample, plan.offsets, *cuts)):
        return "its arrays must hold integers"
    if any(array.shape != plan.sample.shape for array in cuts) or len(cuts) == 1:
        return "it must say of every piece, or of none, where it starts and how long it is"
    if len(plan.offsets) == 0 or plan.offsets[0] != 0 or plan.offsets[-1] != len(plan.sample):
        return "its offsets do not run from 0 to the number of pieces"
    if (plan.offsets[1:] <= plan.offsets[:-1]).any():
        return "a pack is empty"
    return ""


def _find_misplaced(plan: PackPlan, samples: int) -> str:
    message = f"it must place each of {samples} samples exactly once"
    if len(plan.sample) != samples:
        return message
    placed = np.zeros(samples, bool)
    for first in range(0, samples, PIECES_AT_A_TIME):
        part = plan.sample[first : first + PIECES_AT_A_TIME]
        if part.min() < 0 or part.max() >= samples:
            return message
        placed[part] = True
    return "" if placed.all() else message


def _find_wrong_cuts(plan: PackPlan, lengths: Integers) -> str:
    sample, start, length = (array.astype(np.int64) for array in (plan.sample, plan.start, plan.length))
    if len(sample) and (sample.min() < 0 or sample.max() >= len(lengths) or length.min() < 1):
        return "it places pieces of no samples, or without tokens"
    order = np.lexsort((start, sample))
    sample, start, end = sample[order], start[order], (start + length)[order]
    first = np.diff(sample, prepend=-1) != 0
    last = np.append(first[1:], True) if len(first) else first
    begins = np.where(first, 0, np.roll(end, 1))
    if int(first.sum()) != len(lengths) or (start != begins).any() or (end[last] != lengths).any():
        return "the pieces of a sample overlap, or leave some of it out"
    return ""
