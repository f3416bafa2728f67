"""``--plan``: unpacked sets read through the plans that ``seqpack pack --plan-only`` made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.io.documents import DocumentRows
from seqpack.io.foreign import ForeignDataset
from seqpack.io.packed import PackedDataset
from seqpack.io.planned import PlannedDataset
from seqpack.packing.saved import SavedPlan, read_plans
from seqpack.train.checks import isolation_flags

if TYPE_CHECKING:
    from seqpack.options.train import TrainDataOptions


def read_through_plans(
    paths: list[str], sets: tuple[PackedDataset, ...], data: TrainDataOptions
) -> tuple[PackedDataset, ...]:
    """The same sets, each through the plan among ``data.plan`` that was made from it, if there is one.

    Raises DataError SP117 for a plan that is for none of them, ConfigError SP203 if no flag says who sees whom.
    """
    if not data.plan:
        return sets
    planned = {
        f"{path} (set {number})" if paths.count(path) > 1 else path: dataset
        for number, (path, dataset) in enumerate(zip(paths, sets, strict=True), 1)
        if not isinstance(dataset, ForeignDataset | DocumentRows)
    }
    if not planned:
        raise ConfigError(
            "SP208",
            f"--plan {data.plan[0]}: there is no set of samples that seqpack made",
            help="leave it out; plans are made of sets that seqpack preprocess wrote",
        )
    mask = _mask(data)
    found = read_plans(data.plan, {name: dataset.sample_lengths for name, dataset in planned.items()})
    through = {id(planned[name]): _through(planned[name], saved, mask) for name, saved in found.items()}
    return tuple(through.get(id(dataset), dataset) for dataset in sets)


def _through(dataset: PackedDataset, saved: SavedPlan, mask: MaskMode) -> PlannedDataset:
    plan, record = saved.plan, saved.record
    if plan.align > 1 and mask is MaskMode.CAUSAL:
        raise ConfigError(
            "SP031",
            f"{saved.path} puts padding between samples (--align {plan.align}), to which those behind would attend if "
            "samples of a pack see each other",
            help="add --neat-pack, or make the plan again without --align",
        )
    return PlannedDataset(dataset, plan, strategy=record.strategy, mask=mask, packing=record.options)


def _mask(data: TrainDataOptions) -> MaskMode:
    apart, together = isolation_flags(data)
    if apart and together:
        raise ConfigError("SP203", f"{apart[0]} and {together[0]} contradict each other", help="give one of them")
    if not apart and not together:
        raise ConfigError(
            "SP203",
            f"--plan {data.plan[0]} says who shares a pack, and nothing says who sees whom in it",
            help="add --neat-pack to keep samples from seeing each other, or --no-neat-pack to let each see those "
            "before it",
        )
    return MaskMode.BLOCK_CAUSAL if apart else MaskMode.CAUSAL
