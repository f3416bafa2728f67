"""Raw files, or a set that exists: which of them a command was given."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from seqpack.core.errors import ConfigError, DataError
from seqpack.io.packed import DataSetPaths
from seqpack.io.readers.hub import HUB_PREFIX, may_be_hub_name
from seqpack.io.readers.kinds import reader_of
from seqpack.io.sets import find_manifest
from seqpack.options.data import InputOptions
from seqpack.pipeline.auto_handler import AUTO


def the_set(input: InputOptions) -> Path | None:
    """The prefix of the set that ``--input`` names, None if it names raw files, or data sets of ``--dataset-dir``.

    ConfigError SP001 for a set among other names, and for a name that is a set and a file or folder as well; DataError
    SP106 for a name that is nothing.
    """
    if input.dataset_dir is not None:
        return None
    inputs = input.input
    sets = [path for path in inputs if find_manifest(path) is not None]
    if not sets:
        if input.handler == AUTO:  # other handlers may know data sets by name
            _check_found(inputs)
        return None
    prefix, manifest = sets[0], find_manifest(sets[0])
    if len(inputs) > 1:
        raise ConfigError(
            "SP001",
            f"{prefix} is a set that exists ({manifest}), beside other input",
            help="name one set, or raw files",
        )
    if prefix.exists():
        kind = "folder" if prefix.is_dir() else "file"
        raise ConfigError(
            "SP001",
            f"{prefix} is a {kind}, and a set of that name exists too ({manifest})",
            help=f"write {prefix}_packed for the set"
            + (f", or {prefix}/* for what is in the folder" if kind == "folder" else f"; rename the {kind}"),
        )
    return prefix


def _check_found(inputs: Sequence[Path]) -> None:
    """DataError SP106 for a name that may be meant as that of a set, and is none; files are looked for later."""
    for path in inputs:
        is_name = reader_of(path) is None and not glob.has_magic(str(path)) and not str(path).startswith(HUB_PREFIX)
        if is_name and not path.exists() and not may_be_hub_name(path) and path.name not in ("", ".."):
            manifest = DataSetPaths.of(path).manifest
            raise DataError(
                "SP106",
                f"there is neither a set {path} ({manifest} is missing, so it is unfinished or not made by seqpack), "
                "nor a file or folder of that name",
                help="give the prefix that was --output-prefix, or the names of raw files",
            )
