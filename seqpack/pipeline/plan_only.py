"""``seqpack pack --plan-only`` and ``--lengths``: which sample would go where, without writing a token."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqpack.core.errors import ConfigError, DataError, DataLossError, FormatError
from seqpack.core.plan import Integers, PackPlan
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PackingStrategy
from seqpack.io.packed import PackedDataset
from seqpack.options.data import PlanOptions, RepackOptions, StrategyOptions
from seqpack.packing.planning import check_lengths, check_strategy, make_plan
from seqpack.packing.quality import PlanQuality, assess
from seqpack.packing.saved import PlanRecord, write_plan


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan that was made, and written if ``output`` says where; ``seconds`` are of planning and materialising.

    ``source`` is the set it was made of, None for bare lengths.
    """

    plan: PackPlan
    record: PlanRecord
    quality: PlanQuality
    seconds: float
    dropped: int
    output: Path | None
    source: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.quality.to_dict(),
            "seconds": round(self.seconds, 6),
            "samples": len(self.plan.lengths) - self.dropped,
            "dropped": self.dropped,
            "padding": self.plan.padding,
            "strategy": self.record.strategy,
            "seq_length": self.record.seq_length,
            "data": self.record.data,
            "fingerprint": self.record.fingerprint,
            "output": None if self.output is None else str(self.output),
        }


def plan_only(options: PlanOptions, repack: RepackOptions, strategy: StrategyOptions) -> PlanResult:
    """Plan a bare array of lengths, or the samples of a set in the order of the raw data; write what was planned.

    Raises ConfigError, DataError and DataLossError as ``repack`` does, with nothing written.
    """
    component = plugin_host().strategy(strategy.strategy)
    check_strategy(component, seq_length=repack.seq_length, align=strategy.align, max_docs=strategy.max_docs)
    output = options.output
    if output is not None and output.exists() and not options.overwrite:
        raise ConfigError("SP004", f"{output} exists", help="choose another --output, or replace it with --overwrite")
    lengths: Integers
    if options.lengths is not None:
        lengths = load_lengths(options.lengths)
    else:
        lengths = PackedDataset.open(_source(repack)).sample_lengths
    kept = _kept(lengths, repack)
    plan, seconds = _timed(component, lengths if kept is None else lengths[kept], repack, strategy)
    if kept is not None:
        plan = dataclasses.replace(plan, sample=kept[plan.sample].astype(plan.sample.dtype), lengths=lengths)
    record = PlanRecord.of(
        lengths, component.name, repack.seq_length, strategy.planning | {"on_overlong": repack.on_overlong}
    )
    if output is not None:
        write_plan(output, plan, record)
    quality = assess(plan)
    dropped = 0 if kept is None else len(lengths) - len(kept)
    source = repack.source if options.lengths is None else None
    return PlanResult(plan, record, quality, seconds, dropped, output, source)


def load_lengths(path: Path) -> Integers:
    """The array of a ``.npy`` file, memory-mapped; DataError if there is none, FormatError if it is not one."""
    try:
        lengths: Integers = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("SP101", f"{path} is missing", help="check --lengths") from error
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(
            "SP105",
            f"{path} is not an array of numbers that numpy saved",
            help="save it as np.save(file, np.array(lengths))",
        ) from error
    if not isinstance(lengths, np.ndarray):
        raise FormatError("SP105", f"{path} is not a single array", help="save it as np.save(file, lengths)")
    try:
        check_lengths(lengths, None)
    except DataError as error:
        raise DataError(error.code, f"{path}: {error.message}", help=error.help) from error
    return lengths


def _source(repack: RepackOptions) -> Path:
    if repack.source is None:
        raise ConfigError("SP001", "PREFIX is missing", help="name a set made by seqpack preprocess, or give --lengths")
    return repack.source


def _kept(lengths: Integers, repack: RepackOptions) -> Integers | None:
    """Numbers of the samples that fit, or None for all; DataLossError if too many do not."""
    if repack.on_overlong != "drop":
        return None
    kept = np.flatnonzero(lengths <= repack.seq_length)
    lost = len(lengths) - len(kept)
    if lost > repack.max_drop * len(lengths):
        raise DataLossError(
            "SP102",
            f"{lost:,} of {len(lengths):,} samples would be left out, --max-drop is {repack.max_drop:.1%}",
            help="raise --seq-length or --max-drop; nothing was written",
        )
    return kept if lost else None


def _timed(
    component: Component[PackingStrategy], lengths: Integers, repack: RepackOptions, strategy: StrategyOptions
) -> tuple[PackPlan, float]:
    component.load()  # imports are start-up
    began = time.perf_counter()
    split = repack.on_overlong == "split"
    plan = make_plan(component, lengths, seq_length=repack.seq_length, split=split, **strategy.planning)
    return plan, time.perf_counter() - began
