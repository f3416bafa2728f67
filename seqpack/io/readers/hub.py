"""Data sets of the Hugging Face hub, through the optional package ``datasets``, as the Arrow files of its cache."""

from __future__ import annotations

import re
from pathlib import Path

from seqpack.core.errors import DataError, DeviceError

HUB_PREFIX = "hf:"

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def may_be_hub_name(path: Path, *, ignore_folders: bool = False) -> bool:
    """Whether ``org/name`` is meant: with a folder ``org`` at hand it is more likely a path that is spelt wrong."""
    return bool(HUB_NAME.fullmatch(str(path))) and (ignore_folders or not path.parent.is_dir())


def hub_files(name: str) -> list[Path]:
    """The Arrow files of the split ``train``, downloaded unless they are in the cache.

    DeviceError if the package is missing, DataError if there is no such data set or it cannot be loaded.
    """
    seen = f"there is no file or folder {name}"
    try:
        # half a second and pandas, only for those who name a data set
        import datasets
    except ImportError as error:
        raise DeviceError(
            "SP502",
            f"{seen}; to look for it on the Hugging Face hub the package datasets is needed",
            help='check the path, or pip install "seqpack-toolkit[hub]"',
        ) from error
    try:
        files = [Path(file["filename"]) for file in datasets.load_dataset(name, split="train").cache_files]
    except Exception as error:  # whatever the network, the hub or the data set's own files lead to
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(
            "SP101",
            f"{seen}, and the Hugging Face hub has no data set of that name that can be loaded ({reason})",
            help="check --input, the network and HF_ENDPOINT; or download the files and name their folder",
        ) from error
    if not files:
        raise DataError(
            "SP101", f"the data set {name} of the Hugging Face hub has no files", help="download its files by hand"
        )
    return files
