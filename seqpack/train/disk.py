"""A full disk behind errors that do not say so: torch and safetensors write through code of their own."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from seqpack.io.publish import UNWRITABLE

NOTHING_LEFT = 2**20
"""Fewer free bytes than that, and a failure to write is put down to it."""
_RUST = re.compile(r"\(os error (\d+)\)")


def unwritable(error: BaseException, folder: Path) -> OSError | None:
    """Why ``folder`` could not be written to, or None if that is not what the error is about."""
    behind: BaseException | None = error
    while behind is not None:
        number = behind.errno if isinstance(behind, OSError) else _rust_errno(behind)
        if number in UNWRITABLE:
            return OSError(number, os.strerror(number))
        behind = behind.__cause__ or behind.__context__
    # An error that came from another rank has lost what was behind it.
    if isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < NOTHING_LEFT:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _rust_errno(error: BaseException) -> int:
    found = _RUST.search(str(error))
    return int(found[1]) if found else 0
