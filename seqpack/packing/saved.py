"""Plans in files, with a fingerprint: of what data, made how. A plan for other data is refused.

A plan depends on lengths, options and seed alone, so their fingerprint is that of the plan: equal on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqpack.core.errors import DataError, FormatError
from seqpack.core.plan import Integers, PackPlan
from seqpack.io.publish import partial_folder

FORMAT_VERSION = 1
PLANNER_VERSION = 2
"""Raised whenever a strategy makes other plans of the same lengths, options and seed."""
HASHED_AT_A_TIME = 1 << 22
_ARRAYS = ("sample", "offsets", "cut_start", "cut_length")


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """How a plan was made; ``data`` is the fingerprint of the lengths, ``fingerprint`` that of the plan."""

    strategy: str
    seq_length: int
    options: dict[str, Any]
    data: str
    fingerprint: str

    @classmethod
    def of(cls, lengths: Integers, strategy: str, seq_length: int, options: dict[str, Any]) -> PlanRecord:
        """The record of the plan that ``make_plan`` makes with these ``options``, its keywords."""
        data = fingerprint_of(lengths)
        text = json.dumps([PLANNER_VERSION, data, strategy, seq_length, options], sort_keys=True)
        return cls(strategy, seq_length, options, data, hashlib.sha256(text.encode()).hexdigest())


class SavedPlan(NamedTuple):
    """A plan from a file, for the samples of a set."""

    path: Path
    plan: PackPlan
    record: PlanRecord


def fingerprint_of(lengths: Integers) -> str:
    """SHA-256 of the lengths, whatever the width of their integers."""
    digest = hashlib.sha256(str(len(lengths)).encode())
    for first in range(0, len(lengths), HASHED_AT_A_TIME):
        digest.update(np.ascontiguousarray(lengths[first : first + HASHED_AT_A_TIME], "<u4").data)
    return digest.hexdigest()


def write_plan(path: Path, plan: PackPlan, record: PlanRecord) -> None:
    """Write a ``.npz`` of the plan's arrays and its record, aside and then renamed. DeviceError if it cannot be."""
    about = {
        "format_version": FORMAT_VERSION,
        "strategy": record.strategy,
        "seq_length": record.seq_length,
        "align": plan.align,
        "options": record.options,
        "data": record.data,
        "fingerprint": record.fingerprint,
        "contents": _digest(plan),
    }
    arrays = {name: array for name in _ARRAYS if (array := getattr(plan, name)) is not None}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with partial_folder(path) as folder:
        aside = folder / path.name
        with aside.open("wb") as file:
            np.savez(file, about=text, **arrays)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def read_plans(paths: Sequence[Path], sets: Mapping[str, Integers]) -> dict[str, SavedPlan]:
    """The plan of each set that one of these files is a plan for; ``sets`` are the lengths of their samples, by name.

    Raises DataError if a file is missing, is a plan for other data, or for a set that has one already; FormatError if
    it is not a plan or damaged.
    """
    fingerprints = {name: fingerprint_of(lengths) for name, lengths in sets.items()}
    found: dict[str, SavedPlan] = {}
    for path in paths:
        plan, record = _read(path)
        fitting = [name for name, data in fingerprints.items() if data == record.data]
        free = [name for name in fitting if name not in found]
        if fitting and not free:
            raise DataError(
                "SP117",
                f"{path} and {found[fitting[0]].path} are plans for the same set, {fitting[0]}",
                help="leave one of them out",
            )
        if not free:
            raise DataError(
                "SP117",
                f"{path} is a plan for other data: its samples have other lengths than those of {', '.join(sets)}",
                help="make the plan again from this data set: seqpack pack PREFIX --plan-only",
            )
        found[free[0]] = SavedPlan(path, dataclasses.replace(plan, lengths=sets[free[0]]), record)
    return found


def _read(path: Path) -> tuple[PackPlan, PlanRecord]:
    """A plan and its record; the lengths of its samples are not in the file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]))
            arrays = {name: file[name] for name in _ARRAYS if name in file}
        plan = PackPlan(about["seq_length"], lengths=np.zeros(0, np.int32), align=about["align"], **arrays)
        record = PlanRecord(
            about["strategy"], about["seq_length"], about["options"], about["data"], about["fingerprint"]
        )
        version, contents = about["format_version"], about["contents"]
    except FileNotFoundError as error:
        raise DataError("SP101", f"{path} is missing", help="seqpack pack --plan-only writes plans") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            "SP105", f"{path} is not a plan, or is damaged", help="seqpack pack --plan-only makes one; make it again"
        ) from error
    if version != FORMAT_VERSION or contents != _digest(plan):
        raise FormatError("SP105", f"{path} is damaged, or of another version", help="make the plan again")
    return plan, record


def _digest(plan: PackPlan) -> str:
    digest = hashlib.sha256()
    for name in _ARRAYS:
        array = getattr(plan, name)
        for first in range(0, 0 if array is None else len(array), HASHED_AT_A_TIME):
            digest.update(np.ascontiguousarray(array[first : first + HASHED_AT_A_TIME], "<i8").data)
    return digest.hexdigest()
