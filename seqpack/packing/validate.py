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
    assert plan.cut_start is not None
    assert plan.cut_length is not None
    sample, start, length = plan.sample, plan.cut_start, plan.cut_length
    if len(sample) and (sample.min() < 0 or sample.max() >= len(lengths) or length.min() < 1):
        return "it places pieces of no samples, or without tokens"
    if not _in_order(sample, start):
        order = np.lexsort((start, sample))
        sample, start, length = sample[order], start[order], length[order]
    message = "the pieces of a sample overlap, or leave some of it out"
    samples, next_start, placed = -1, 0, 0  # the last sample seen, where its next piece must start, samples begun
    for first in range(0, len(sample), PIECES_AT_A_TIME):
        here = slice(first, first + PIECES_AT_A_TIME)
        end = start[here].astype(np.int64) + length[here]
        begins = np.diff(sample[here], prepend=samples) != 0
        expected = np.where(begins, 0, np.concatenate([[next_start], end[:-1]]))
        is_last = np.diff(sample[here.start : here.stop + 1], append=-1)[: len(end)] != 0
        if (start[here] != expected).any() or (end[is_last] != lengths[sample[here][is_last]]).any():
            return message
        placed += int(begins.sum())
        samples, next_start = int(sample[here][-1]), int(end[-1])
    return "" if placed == len(lengths) else message


def _in_order(sample: Integers, start: Integers) -> bool:
    for first in range(0, len(sample) - 1, PIECES_AT_A_TIME):
        here = slice(first, first + PIECES_AT_A_TIME + 1)
        rises = np.diff(sample[here])
        if (rises < 0).any() or (np.diff(start[here].astype(np.int64))[rises == 0] < 0).any():
            return False
    return True
