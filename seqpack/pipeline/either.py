"""Raw files, or a set that exists: which of them a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqpack.core.errors import ConfigError
from seqpack.io.sets import find_manifest


def the_set(inputs: Sequence[Path]) -> Path | None:
    """The prefix of the set that ``inputs`` name, None if they are raw files.

    ConfigError SP001 for a set among other names, and for a name that is a set and a file or folder as well.
    """
    sets = [path for path in inputs if find_manifest(path) is not None]
    if not sets:
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
