"""Write aside, publish by rename: a run that is killed or fails leaves nothing behind that looks finished."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqpack.core.errors import DeviceError

UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS})
NO_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
"""Something on the way is a file (``EEXIST`` if it comes last), or a name is too long."""


@contextlib.contextmanager
def disk_errors(parent: Path) -> Iterator[None]:
    """A full disk, and a folder that may not be written to, become a DeviceError."""
    try:
        yield
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise DeviceError(
                "SP503",
                f"cannot write to {parent}: {error.strerror}",
                help="free some space or choose another output folder; nothing was published",
            ) from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those around it, unless they are there; DeviceError SP503 if its name cannot be a folder's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
        raise DeviceError(
            "SP503",
            f"{folder} cannot be made a folder: {os.strerror(number)}",
            help="choose another output folder; nothing was written",
        ) from error


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` to write into; it is removed at the end, whatever happens.

    Folders that killed runs of this machine left for the same target are removed first. Errors as ``disk_errors``.
    """
    parent = target.parent
    folder = parent / f"{_stem(target)}{os.getpid()}"
    with disk_errors(parent):
        try:
            make_folder(parent)
            _remove_leftovers(target)
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, destination: Path, names: Sequence[str]) -> None:
    """Move finished files into ``destination`` in the given order; the last one is what makes the set count as whole.

    That last file, if an older set has one, is removed first: at no moment does it vouch for a mixture.
    """
    (destination / names[-1]).unlink(missing_ok=True)
    for name in names:
        (folder / name).replace(destination / name)
    _sync_folder(destination)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stem(target: Path) -> str:
    return f".{target.name}.partial-{socket.gethostname()}-"


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f"{glob.escape(_stem(target))}*"):
        pid = leftover.name.removeprefix(_stem(target))
        # Our own number is that of a dead process too: in a container, every run may be process 1.
        if pid == str(os.getpid()) or not _is_alive(pid):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
