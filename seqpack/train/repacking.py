"""``--repack-epochs``: the packs of a plan with other neighbours in every epoch, and the same number of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError
from seqpack.io.packed import PackedDataset
from seqpack.io.planned import PlannedDataset
from seqpack.packing.epochs import for_epoch
from seqpack.train.split import Split, part_of

Sets = tuple[PackedDataset, ...]
EPOCHS_HELD = 2
"""A step at the seam of two epochs needs both."""


def repacked(sets: Sets, split: Split, seed: int) -> Callable[[int], Sets]:
    """The sets of each epoch; in the first one they are as they are, and those without a plan stay so.

    ConfigError SP208 if no set is read through a plan, or a plan cuts samples, which then cannot change places.
    """
    planned = [dataset for dataset in sets if isinstance(dataset, PlannedDataset)]
    if not planned:
        raise ConfigError(
            "SP208",
            "--repack-epochs changes the packs of a plan, and no set is read through one",
            help="add --plan FILE, made by seqpack pack --plan-only; packs on disk stay as they are",
        )
    if any(dataset.plan.cut_length is not None for dataset in planned):
        raise ConfigError(
            "SP208",
            "--repack-epochs: the plan cuts samples, and their pieces cannot change places",
            help="leave it out, or plan with another --strategy and --on-overlong",
        )
    groups = {id(dataset): _groups(dataset, split) for dataset in planned}

    @lru_cache(maxsize=EPOCHS_HELD)
    def of_epoch(epoch: int) -> Sets:
        return tuple(
            dataset.replanned(for_epoch(dataset.plan, epoch, seed=seed, groups=groups[id(dataset)]))
            if epoch and isinstance(dataset, PlannedDataset)
            else dataset
            for dataset in sets
        )

    return of_epoch


def _groups(dataset: PlannedDataset, split: Split) -> NDArray[np.int64]:
    """Samples of different groups must not change places, int64 ``[samples]``.

    Parts of the split keep theirs, or the model would be evaluated on what it was trained on; and as many samples of a
    pack are trained on in every epoch, so that rows without any are the same ones.
    """
    part = np.zeros(len(dataset), np.int64)
    for number in (1, 2):
        part[slice(*part_of(len(dataset), split, number))] = number
    groups = np.zeros(len(dataset.plan.lengths), np.int64)
    groups[dataset.plan.sample] = 2 * part[dataset.pieces.row] + (dataset.pieces.num_targets > 0)
    return groups
