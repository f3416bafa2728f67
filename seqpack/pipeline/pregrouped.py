"""``preprocess --pregrouped``: packs that the lines of the data say, in their order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.ledger import Ledger
from seqpack.core.plan import PackPlan
from seqpack.io.packed import PieceIndex
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, PackOptions
from seqpack.pipeline.loss import Loss

STRATEGY = "pregrouped"
"""Stands in the manifest where a packing strategy would."""
FULL = "no room left in its group"


def check_pregrouped(pack: PackOptions, compat: CompatOptions) -> None:
    """ConfigError for flags that contradict groups that are there already."""
    if not pack.packs:
        raise ConfigError(
            "SP028",
            "--pregrouped would do nothing: nothing is packed",
            help="add --pack or --neat-pack and --seq-length",
        )
    refuse_idle(pack, ("strategy",), because="the rows of --pregrouped say who shares a pack", help="leave it out")
    if compat.compat != "none":
        raise ConfigError(
            "SP027", f"--compat {compat.compat} packs by rules of its own", help="leave out it, or --pregrouped"
        )


def group_offsets(file: NDArray[np.integer], line: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each group begins, and the end: samples of one row stand side by side."""
    is_new = np.ones(len(file) + 1, np.bool_)
    is_new[1:-1] = (file[1:] != file[:-1]) | (line[1:] != line[:-1])
    return np.flatnonzero(is_new)


def group_plan(pieces: PieceIndex, length: LengthOptions, ledger: Ledger, lost: Callable[[Loss], None]) -> PackPlan:
    """A pack for each row of the data.

    Under ``--on-overlong drop`` a sample that has no room left in its group is left out: the ledger counts it, ``lost``
    hears of it. Otherwise such a group is a DataError SP108 that names file:line.
    """
    assert length.seq_length is not None
    offsets = group_offsets(pieces.source, pieces.line)
    packs: list[list[int]] = []
    for first, last in pairwise(offsets.tolist()):
        total = int(pieces.length[first:last].sum())
        if total <= length.seq_length:
            packs.append(list(range(first, last)))
        elif length.on_overlong == "drop":
            packs.append(_fitting(pieces, first, last, length.seq_length, ledger, lost))
        else:
            raise DataError(
                "SP108",
                f"{pieces.key(first)}: the {last - first:,} samples of this row have {total:,} tokens, and do not fit "
                f"--seq-length {length.seq_length:,} together",
                help="raise it, leave out what has no room with --on-overlong drop, or make groups that fit: seqpack "
                "pack FILE --seq-length N -o groups.jsonl, with the same template",
            )
    return PackPlan.from_packs(packs, pieces.length.astype(np.int64), seq_length=length.seq_length)


def _fitting(
    pieces: PieceIndex, first: int, last: int, room: int, ledger: Ledger, lost: Callable[[Loss], None]
) -> list[int]:
    """The samples of a group that find room, in their order."""
    kept = []
    for piece in range(first, last):
        tokens = int(pieces.length[piece])
        if tokens <= room:
            kept.append(piece)
            room -= tokens
        else:
            ledger.unkeep(FULL, tokens, int(pieces.num_targets[piece]))
            lost(Loss(pieces.key(piece), "dropped", FULL, tokens))
    return kept
