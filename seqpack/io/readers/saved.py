"""Folders that ``save_to_disk`` of the package ``datasets`` wrote; its Arrow files are read without that package."""

from __future__ import annotations

import json
from pathlib import Path

from seqpack.core.errors import DataError


def saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a saved data set in the order of its rows; None for any other folder.

    DataError if it holds several splits, or is damaged.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise DataError(
            "SP101", f"{folder} holds several splits: {', '.join(splits)}", help="name one of these folders"
        )
    state = folder / "state.json"
    if not (state.is_file() and (folder / "dataset_info.json").is_file()):
        return None
    try:
        value = json.loads(state.read_bytes())
        files = [folder / entry["filename"] for entry in value["_data_files"]]
        selects_rows = bool(value.get("_indices_data_files") or value.get("_indices_files"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError("SP103", f"{state} is damaged ({reason})", help="save the data set again") from error
    if selects_rows:
        raise DataError("SP103", f"{folder} has an index beside its rows", help="save it with a newer datasets package")
    if missing := [file for file in files if not file.is_file()]:
        raise DataError("SP101", f"{missing[0]} is missing, {state} names it", help="copy the whole folder")
    return files
