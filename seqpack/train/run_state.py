"""Checkpoints of a run: weights, optimizer and place in the data, from which it goes on as if it had not stopped.

``<save>/step-37`` holds torch.distributed.checkpoint's files, sharded as the ranks hold them, and ``checkpoint.json``.
A folder of that name is always whole: it is written under another name, forced to the disk and renamed. Gradients and
random numbers need no place in it: a checkpoint lies between two steps, and a step's random numbers follow from its
number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from seqpack.core.errors import CheckpointError, ConfigError, DeviceError
from seqpack.train.disk import unwritable

if TYPE_CHECKING:
    from seqpack.runtime.ranks import Ranks

FORMAT_VERSION = 1
RECORD = "checkpoint.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class SavedStep:
    """A whole checkpoint: ``step`` steps are done; ``identity`` is what a run that goes on from it must share."""

    path: Path
    step: int
    identity: Mapping[str, Any]


class RunState:
    """The checkpoints under ``folder``; every rank calls all methods, in the same order.

    With ``background``, ``save`` copies the tensors and returns; they are written while training goes on. An error of
    that comes out of the next ``save`` or of ``finish``.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        identity: Mapping[str, Any],
        keep_last: int | None = None,
        *,
        background: bool = False,
    ) -> None:
        self._folder = folder
        self._ranks = ranks
        self._identity = identity
        self._keep_last = keep_last
        self._writer = ThreadPoolExecutor(1, "checkpoint") if background else None
        # Of its own: what training exchanges meanwhile must not mix with it.
        self._group = dist.new_group(backend="gloo") if background and ranks.size > 1 else None
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, torch.Tensor]) -> Path:
        """Write ``step-<step>`` and remove what ``keep_last`` does not keep; DeviceError SP503 if the disk is full."""
        self.finish()
        if self._writer is None:
            with quiet():
                self._write(step, tensors)
        else:
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            self._pending = self._writer.submit(self._write, step, copies)
        return self._folder / f"step-{step}"

    def finish(self) -> None:
        """Return when what was saved last is on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread that writes; for a run that failed, whose own error matters more than that of the thread."""
        with contextlib.suppress(Exception):
            self.finish()
        if self._writer is not None:
            self._writer.shutdown()

    def _write(self, step: int, tensors: dict[str, torch.Tensor]) -> None:
        partial = self._folder / f".step-{step}.partial"
        try:
            if self._ranks.first:
                self._remove_leftovers()
                partial.mkdir(parents=True)
            self._ranks.wait(self._group)
            with _disk_errors(self._folder):
                save(tensors, checkpoint_id=partial, process_group=self._group, no_dist=self._ranks.size == 1)
            if self._ranks.first:
                with _disk_errors(self._folder):
                    self._publish(partial, self._folder / f"step-{step}", step)
            self._ranks.wait(self._group)
        finally:
            if self._ranks.first:
                shutil.rmtree(partial, ignore_errors=True)

    def load(self, saved: SavedStep, tensors: dict[str, torch.Tensor]) -> None:
        """Fill ``tensors`` in place; SP210 if the checkpoint belongs to another run, SP209 if it cannot be read."""
        _check_identity(saved, self._identity)
        try:
            with quiet():
                load(tensors, checkpoint_id=saved.path, no_dist=self._ranks.size == 1)
        except (CheckpointException, RuntimeError, OSError, KeyError) as error:
            raise CheckpointError(
                "SP209",
                f"{saved.path} cannot be loaded: {_first_line(error)}",
                help=f"remove {saved.path} to go on from the checkpoint before it",
            ) from error

    def _publish(self, partial: Path, target: Path, step: int) -> None:
        files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        record = {"format_version": FORMAT_VERSION, "step": step, "identity": dict(self._identity), "files": files}
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in partial.iterdir():
            _sync(path)
        if target.exists():  # a run that was resumed from an older checkpoint comes by again
            _discard(target)
        partial.rename(target)
        _sync(self._folder)
        if self._keep_last is not None:
            for saved in _numbered(self._folder)[: -self._keep_last]:
                _discard(saved)

    def _remove_leftovers(self) -> None:
        for leftover in (*self._folder.glob(".step-*.partial"), *self._folder.glob(".step-*.old")):
            shutil.rmtree(leftover, ignore_errors=True)


def newest(folder: Path) -> SavedStep | None:
    """The checkpoint with the most steps, or None if there is none; SP209 if a file of it is missing or short."""
    found = _numbered(folder)
    return _read(found[-1]) if found else None


def _read(path: Path) -> SavedStep:
    help = f"remove {path} to go on from the checkpoint before it"
    try:
        record = json.loads((path / RECORD).read_bytes())
        version, step, identity, files = (record[name] for name in ("format_version", "step", "identity", "files"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError("SP209", f"{path} has no usable {RECORD}: {error}", help=help) from error
    if version != FORMAT_VERSION:
        raise CheckpointError("SP209", f"{path} has format version {version}, not {FORMAT_VERSION}", help=help)
    for name, size in files.items():
        file = path / name
        seen = file.stat().st_size if file.is_file() else None
        if seen != size:
            what = "is missing" if seen is None else f"has {seen:,} bytes, not {size:,}"
            raise CheckpointError("SP209", f"{file} {what}: the checkpoint is damaged", help=help)
    return SavedStep(path, step, identity)


def _check_identity(saved: SavedStep, identity: Mapping[str, Any]) -> None:
    for name, value in json.loads(json.dumps(dict(identity))).items():
        if saved.identity.get(name) != value:
            raise ConfigError(
                "SP210",
                f"{saved.path} was made with another {name}: {saved.identity.get(name)!r}, now it is {value!r}",
                help="a run can only go on with what it began with; change it back, or start a new run with "
                "another --save",
            )


def _numbered(folder: Path) -> list[Path]:
    """Folders ``step-<number>``, the smallest number first."""
    steps = {int(match[1]): path for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))}
    return [steps[number] for number in sorted(steps)]


def _discard(path: Path) -> None:
    """Remove a folder so that at no moment half of it stands under its name."""
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full disk, also inside an error of torch's, as SP503."""
    try:
        yield
    except (OSError, CheckpointException) as error:
        failures = getattr(error, "failures", {0: (error, None)})
        for failure, _ in failures.values():
            if cause := unwritable(failure, folder):
                raise DeviceError(
                    "SP503",
                    f"no checkpoint could be written to {folder}: {cause.strerror}",
                    help="free some space and go on with --resume; the checkpoints before it are whole",
                ) from error
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's remark that one process saves alone. Not for a thread: filters belong to the whole process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _first_line(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    cause = next(iter(failures.values()))[0] if failures else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
