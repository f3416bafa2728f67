"""The checks of ``seqpack verify`` on a model: small questions to a ``Probe``, each with one line as its answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.core.check_result import CheckResult
from seqpack.core.types import IGNORE_INDEX

if TYPE_CHECKING:
    from seqpack.runtime.batch import Batch
    from seqpack.runtime.ranks import Ranks
    from seqpack.train.verify.expected import Expected, Unit
    from seqpack.train.verify.probe import Hidden, Probe
    from seqpack.train.verify.reference import Reference

    Describe = Callable[[Expected, Unit], str]
    """Names a unit: the row of the data it comes from."""

NO_HEAD = "this rank does not have the output layer"
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Relative. In float64 too, norms and rotations of transformers compute in float32; a fault is much more than these."""
GRADIENT_FLOOR = 1e-3
"""A gradient is compared with its own norm, or this part of the largest one: that of a key bias is 0 but for noise."""


def check_boundaries(probe: Probe, micro_batches: Sequence[Expected], *, whole_rows: bool, padded: bool) -> CheckResult:
    """Batches end samples where the data set does, and attention in every layer is given these very ends.

    Unless ranks hold whole rows (no context parallelism), what attention is given depends on the plan, and only the
    batch is compared. Under pipelines rows are ``padded`` to one length, so their last end is another one.
    """
    fault, calls = "", 0
    for expected in micro_batches:
        found = probe.batch(expected.rows).segments.attended.cu_seqlens.tolist()
        fault = fault or _boundary_fault("the batch has", found, expected)
        probe.hidden(expected)
        for cu_q, cu_k in probe.attention.boundaries if whole_rows else ():
            calls += 1
            fault = fault or _boundary_fault("attention is given", cu_q, expected, padded)
            fault = fault or _boundary_fault("attention is given keys with", cu_k, expected, padded)
    if whole_rows and not calls:
        fault = fault or "no layer called the attention of the run"
    num_units = sum(len(expected.units) for expected in micro_batches)
    seen = f"the ends of {num_units:,} segments are those of the data set"
    return CheckResult.of("boundaries", fault, seen + (f", in {calls:,} calls of attention" if calls else ""))


def check_same_data(ranks: Ranks, micro_batches: Sequence[Expected]) -> CheckResult:
    """All ranks read the same rows, with the same samples and labels: their files may lie on different disks."""
    digest = hashlib.sha256()
    for expected in micro_batches:
        digest.update(repr(expected.boundaries).encode())
        for column in (expected.input_ids, expected.labels):
            digest.update(column.tobytes())
    digests = ranks.gather(digest.hexdigest()[:12])
    if ranks.size == 1:
        return CheckResult("same data", "skipped", "one process")
    different = digest.hexdigest()[:12] != digests[0]
    fault = f"its rows are not those of rank 0 ({digest.hexdigest()[:12]}, {digests[0]})" if different else ""
    return CheckResult.of("same data", fault, f"{ranks.size} ranks read the same rows, boundaries and labels")


def check_positions(probe: Probe, micro_batches: Sequence[Expected]) -> CheckResult:
    """Positions begin at 0 in every sample (every pack, where samples see each other)."""
    fault = ""
    for expected in micro_batches:
        found = probe.batch(expected.rows).position_ids[0].cpu().numpy()
        wrong = np.flatnonzero(found != expected.position_ids)
        if len(wrong) and not fault:
            at = int(wrong[0])
            fault = f"{len(wrong):,} positions are wrong; token {at} has {found[at]}, not {expected.position_ids[at]}"
    count = sum(len(expected.units) for expected in micro_batches)
    return CheckResult.of("positions", fault, f"they begin at 0 in each of {count:,} segments")


def check_labels(probe: Probe, micro_batches: Sequence[Expected]) -> CheckResult:
    """The label of a token is the one behind it in its own sample, and none is missing."""
    fault, targets = "", 0
    for expected in micro_batches:
        batch = probe.batch(expected.rows)
        found = batch.labels[0].cpu().numpy()
        wrong = np.flatnonzero(found != expected.labels)
        targets += int(np.count_nonzero(expected.labels != IGNORE_INDEX))
        if len(wrong) and not fault:
            at = int(wrong[0])
            fault = f"{len(wrong):,} labels are wrong; token {at} has {found[at]}, not {expected.labels[at]}"
    return CheckResult.of("labels", fault, f"{targets:,} tokens are asked for the next one of their own sample")


def check_padding(probe: Probe, micro_batches: Sequence[Expected]) -> CheckResult:
    """Padding is no sample, is not trained on, and is counted as padding."""
    fault, padding = "", 0
    for expected in micro_batches:
        batch = probe.batch(expected.rows)
        padding += int(np.count_nonzero(~expected.is_real))
        fault = fault or _padding_fault(batch, expected, probe.reader.reduction)
    if not fault and not padding:
        return CheckResult("padding", "skipped", "these rows have none")
    return CheckResult.of("padding", fault, f"{padding:,} tokens: no sample of their own, none trained on")


def check_isolation(
    probe: Probe, micro_batches: Sequence[Expected], describe: Describe, *, most: int, exact: bool
) -> CheckResult:
    """Change the first and last token of a sample, look at all others: their last hidden states stay as they were.

    Logits are a function of these, token by token. ``exact`` asks for every bit; without it (experts compute tokens in
    groups that change) for the precision of the numbers. At most ``most`` samples are changed.
    """
    changed_units = looked_at = moved = 0
    fault = ""
    for expected in micro_batches:
        units = [unit for unit in expected.units if not unit.is_padding]
        if len(expected.units) < 2:
            continue
        before = probe.hidden(expected)
        for unit in _spread(units, most // len(micro_batches)):
            after = probe.hidden(expected, np.unique([unit.start, unit.end - 1]))
            different = _different(before, after, exact=exact)
            own = (before.token >= unit.start) & (before.token < unit.end)
            changed_units += 1
            looked_at += int(np.count_nonzero(~own))
            leaked = before.token[different & ~own]
            moved += len(leaked)
            if len(leaked) and not fault:
                other = expected.units[int(expected.unit_of_token[leaked[0]])]
                fault = f"a token of {describe(expected, unit)} changes the logits of {describe(expected, other)}"
            if own.any() and not different[own].any() and not fault:
                fault = f"a token of {describe(expected, unit)} does not change its own logits"
    if not changed_units:
        return CheckResult("isolation", "skipped", "there is one segment at a time, so nothing to keep apart")
    if not looked_at:
        return CheckResult("isolation", "skipped", NO_HEAD)
    how = "to the last bit" if exact else "to rounding"
    counts = f"{moved:,} of {looked_at:,} tokens of others changed their logits"
    seen = f"tokens of {changed_units:,} samples were changed, one sample at a time: {counts} ({how})"
    return CheckResult.of("isolation", f"{fault}; {counts}" if fault else "", seen, looked_at)


def check_hidden(
    probe: Probe, reference: Reference, micro_batches: Sequence[Expected], describe: Describe, dtype: torch.dtype
) -> CheckResult:
    """Last hidden states of samples in a pack are those of each sample alone."""
    worst, where, size = 0.0, "", 0
    for expected in micro_batches:
        found = probe.hidden(expected)
        size += len(found.token)
        for unit in expected.units:
            mine = (found.token >= unit.start) & (found.token < unit.end)
            if unit.is_padding or not mine.any():
                continue
            wanted = reference.hidden(expected, unit)[found.token[mine] - unit.start]
            off = relative(found.state[torch.from_numpy(mine)], wanted)
            if off > worst:
                worst, where = off, describe(expected, unit)
    limit = TOLERANCES[dtype]
    fault = "" if worst <= limit else f"{where} gets another result in its pack than alone: {worst:.1e}, over {limit:g}"
    if not size:
        return CheckResult("logits", "skipped", NO_HEAD)
    fine = f"packed against one by one: relative difference {worst:.1e}, up to {limit:g}"
    return CheckResult.of("logits", fault, fine, size)


def check_gradients(
    probe: Probe, reference: Reference, micro_batches: Sequence[Expected], dtype: torch.dtype
) -> tuple[CheckResult, CheckResult]:
    """Loss and gradients of a step are those of its samples one by one."""
    wanted_loss, wanted = reference.gradients(micro_batches, probe.reader.reduction)
    loss, gradients = probe.gradients(micro_batches)
    limit = TOLERANCES[dtype]
    off = abs(loss - wanted_loss) / max(abs(wanted_loss), 1e-12)
    text = f"{loss:.6f} packed, {wanted_loss:.6f} one by one: relative difference {off:.1e}"
    loss_check = CheckResult.of("loss", "" if off <= limit else f"{text}, over {limit:g}", f"{text}, up to {limit:g}")
    floor = GRADIENT_FLOOR * max((float(gradient.norm()) for gradient in wanted.values()), default=0.0)
    worst, where, count = 0.0, "", 0
    for name, gradient in gradients:
        count += 1
        zero = torch.zeros_like(gradient)
        off = relative(gradient, wanted.get(name, zero), floor)
        if off > worst:
            worst, where = off, name
    text = f"of {count} parameters; the most different is {where}: {worst:.1e}"
    return loss_check, CheckResult.of("gradients", "" if worst <= limit else f"{text}, over {limit:g}", text, count)


def relative(ours: torch.Tensor, wanted: torch.Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over that of what is wanted, or over ``floor``; infinite if it is no number."""
    ours, wanted = ours.double(), wanted.double()
    off = float((ours - wanted).norm()) / max(float(wanted.norm()), floor, 1e-12)
    return off if math.isfinite(off) else math.inf


def _boundary_fault(what: str, found: list[int], expected: Expected, padded: bool = False) -> str:
    last = max(unit.end for unit in expected.units if not unit.is_padding) if padded else len(expected)
    if padded and [end for end in found if end <= last] == [end for end in expected.boundaries if end <= last]:
        return ""
    if found == expected.boundaries:
        return ""
    missing = [end for end in expected.boundaries if end not in set(found)]
    extra = [end for end in found if end not in set(expected.boundaries)]
    which = f"token {missing[0]} is missing" if missing else f"token {extra[0]} is none" if extra else "their order"
    return f"{what} {len(found) - 1:,} segments, the data set {len(expected.boundaries) - 1:,}: the end at {which}"


def _padding_fault(batch: Batch, expected: Expected, reduction: str) -> str:
    num_real = int(np.count_nonzero(expected.is_real))
    counted = {
        "tokens": (batch.num_tokens, num_real),
        "padding tokens": (batch.num_padding, len(expected) - num_real),
        "segments": (len(batch.segments.lengths), len(expected.units)),
    }
    if reduction == "sample":
        counted["samples in the loss"] = (batch.loss_units, _trained_samples(expected))
    for what, (found, wanted) in counted.items():
        if found != wanted:
            return f"{found:,} {what} are counted, {wanted:,} there are"
    padding = torch.from_numpy(~expected.is_real)
    if bool((batch.labels[0].cpu()[padding] != IGNORE_INDEX).any()):
        return "padding is trained on"
    return "padding is marked as real" if bool(batch.is_real[0].cpu()[padding].any()) else ""


def _trained_samples(expected: Expected) -> int:
    begin = count = 0
    for row in expected.rows:
        for sample in range(row.num_samples):
            start, end = row.cu_seqlens[sample : sample + 2].tolist()
            count += bool((expected.labels[begin + start : begin + end] != IGNORE_INDEX).any())
        begin += len(row)
    return count


def _different(before: Hidden, after: Hidden, *, exact: bool) -> np.ndarray:
    """Which tokens have another state, bool ``[L]``."""
    if exact:
        return (before.state != after.state).any(-1).cpu().numpy()
    distance = (before.state.double() - after.state.double()).norm(dim=-1)
    limit = 64 * torch.finfo(before.state.dtype).eps * before.state.double().norm(dim=-1)
    found: np.ndarray = (distance > limit).cpu().numpy()
    return found


def _spread(units: Sequence[Unit], most: int) -> list[Unit]:
    """All units, or ``most`` of them from the first to the last."""
    if len(units) <= most:
        return list(units)
    return [units[number] for number in np.linspace(0, len(units) - 1, max(1, most)).round().astype(int)]
