"""From a strategy's name to a plan that is known to be right, whoever wrote the strategy."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np

from seqpack.core.errors import ConfigError, DataError, PluginError, SeqpackError
from seqpack.core.plan import Integers, PackPlan, index_dtype, round_up
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PackingStrategy
from seqpack.packing.splitting import split_long, with_whole_samples
from seqpack.packing.validate import find_problem

CHECKED_AT_A_TIME = 1 << 20


def make_plan(
    strategy: Component[PackingStrategy],
    lengths: Integers,
    *,
    seq_length: int,
    seed: int,
    align: int = 1,
    max_docs: int | None = None,
    pack_window: int | None = None,
    split: bool = False,
) -> PackPlan:
    """Plan and check: every sample placed once and whole, no pack over ``seq_length``, none empty.

    ``lengths`` are integers of any width, also memory-mapped. Each is rounded up to a multiple of ``align`` before
    planning; a pack takes ``max_docs`` samples at most; ``pack_window`` samples at a time are planned apart from the
    others. With ``split``, a sample longer than a pack is cut into pieces of that length and a rest; a strategy that
    states ``cuts_samples`` cuts where it likes.

    Raises DataError for a sample that fits no pack, ConfigError for options the strategy cannot honour, and
    PluginError, naming the plugin, if the plan is not right or the strategy fails.
    """
    make: Callable[[], PackingStrategy] = strategy.load()
    cuts = cuts_samples(strategy)
    check_strategy(strategy, seq_length=seq_length, align=align, max_docs=max_docs)
    check_lengths(lengths, None if split or cuts else seq_length)
    whole = lengths
    pieces = split_long(lengths, seq_length) if split and not cuts else None
    if pieces is not None:
        lengths = pieces.length
    places = round_up(lengths, align).astype(np.int32) if align > 1 else lengths
    limits = {} if max_docs is None else {"max_docs": max_docs}
    try:
        plan = _plan_windows(make, places, seq_length, np.random.default_rng(seed), pack_window, limits)
        plan = dataclasses.replace(plan, lengths=places, align=1)
        problem = find_problem(plan, places, seq_length=seq_length, cuts=cuts, max_docs=max_docs)
    except SeqpackError:
        raise
    except Exception as error:
        problem = f"it failed with {type(error).__name__}: {error}"
    if problem:
        raise PluginError(
            "SP014",
            f"the plan of strategy {strategy.name!r} (plugin {strategy.plugin!r}) is wrong: {problem}",
            help="choose another --strategy, and tell the plugin's author",
        )
    plan = dataclasses.replace(plan, lengths=lengths, align=align)
    return plan if pieces is None else with_whole_samples(plan, pieces, whole)


def check_lengths(lengths: Integers, seq_length: int | None) -> None:
    """DataError unless these are integers from 1 to ``seq_length`` (any length, if that is None)."""
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise DataError(
            "SP116",
            f"lengths must be whole numbers in one row; these are {lengths.dtype} of shape {lengths.shape}",
            help="save them as np.save(file, np.array(lengths, np.int32))",
        )
    for first in range(0, len(lengths), CHECKED_AT_A_TIME):
        part = lengths[first : first + CHECKED_AT_A_TIME]
        if part.min() < 1:
            worst = int(part.argmin())
            raise DataError(
                "SP116",
                f"sample {first + worst} has {int(part[worst])} tokens; there is nothing to place",
                help="leave such samples out",
            )
        if seq_length is not None and part.max() > seq_length:
            worst = int(part.argmax())
            raise DataError(
                "SP108",
                f"sample {first + worst} has {int(part[worst]):,} tokens, --seq-length is {seq_length:,}",
                help="raise it, or choose another --on-overlong",
            )


def cuts_samples(strategy: Component[PackingStrategy]) -> bool:
    """Whether it cuts samples where a pack ends, so that none is too long."""
    return bool(getattr(strategy.load(), "cuts_samples", False))


def check_strategy(
    strategy: Component[PackingStrategy], *, seq_length: int | None, align: int, max_docs: int | None
) -> None:
    """ConfigError for options this strategy cannot honour, DeviceError if it needs a package that is missing."""
    make = strategy.load()
    if seq_length is not None and seq_length % align:
        raise ConfigError(
            "SP031",
            f"--seq-length {seq_length} is not a multiple of --align {align}",
            help="a sample as long as a pack would not fit it: make it a multiple",
        )
    if align > 1 and getattr(make, "cuts_samples", False):
        raise ConfigError(
            "SP031", f"--align has no place in strategy {strategy.name!r}, which cuts samples", help="leave it out"
        )
    method = getattr(make, "plan", None)
    if max_docs is not None and "max_docs" not in (inspect.signature(method).parameters if method else {}):
        raise ConfigError(
            "SP031",
            f"strategy {strategy.name!r} cannot limit the samples of a pack",
            help="leave --max-docs out, or choose another --strategy",
        )
    check = getattr(make, "check_installed", None)
    if check is not None:
        check()


def _plan_windows(
    make: Callable[[], PackingStrategy],
    lengths: Integers,
    seq_length: int,
    rng: np.random.Generator,
    window: int | None,
    limits: dict[str, int],
) -> PackPlan:
    """Plans of windows of samples behind one another; that of the whole set if a window holds it."""
    if not getattr(make, "takes_any_integer", False):
        lengths = lengths.astype(np.int64)
    lengths = lengths.view()
    lengths.flags.writeable = False  # a strategy that sorts them in place would pass the check and mix up the data
    size = window or max(len(lengths), 1)
    plans = []
    for first in range(0, max(len(lengths), 1), size):
        part = lengths[first : first + size]
        plans.append(make().plan(part, seq_length=seq_length, rng=rng, **limits))
        _check_kind(plans[-1], part)
    return plans[0] if len(plans) == 1 else _behind_one_another(plans, lengths, size)


def _check_kind(plan: object, lengths: Integers) -> None:
    """TypeError or ValueError for what is not a plan, or one that has lengths of its own."""
    if not isinstance(plan, PackPlan):
        raise TypeError(f"a plan is a PackPlan, not {type(plan).__name__}")
    if plan.lengths is lengths:
        return
    if plan.lengths.dtype.kind not in "iu":
        raise TypeError(f"its lengths are {plan.lengths.dtype}, not integers")
    if plan.lengths.shape == lengths.shape and not np.array_equal(plan.lengths, lengths):
        raise ValueError("its lengths are not those of the samples")


def _behind_one_another(plans: list[PackPlan], lengths: Integers, size: int) -> PackPlan:
    kind = index_dtype(sum(len(plan.sample) for plan in plans))
    sample = [(plan.sample + number * size).astype(kind) for number, plan in enumerate(plans)]
    sizes = [np.diff(plan.offsets).astype(kind) for plan in plans]
    offsets = np.cumsum(np.concatenate([np.zeros(1, kind), *sizes]), dtype=kind)
    cut = any(plan.cut_length is not None for plan in plans)
    starts = np.concatenate([plan.start for plan in plans]) if cut else None
    tokens = np.concatenate([plan.length for plan in plans]) if cut else None
    return PackPlan(plans[0].seq_length, np.concatenate(sample), offsets, lengths, starts, tokens)
