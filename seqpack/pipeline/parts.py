"""Finished parts of the work, kept in a hidden folder beside the output until the output is published.

A part is what became of one shard of the data: a few flat files and, written last, a marker that vouches for them. A
run that is killed leaves its parts; the next run of the same work does only those that are missing, and so do runs on
several machines that share a disk. The folder also holds what decides the parts (``key.json``): parts of other work
are never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.ledger import Ledger
from seqpack.io.publish import disk_errors, make_folder
from seqpack.io.shards import Shard
from seqpack.pipeline.run import Run
from seqpack.pipeline.settings import Settings, differences

MARKER = "done.json"
KEY = "key.json"
RUN = "run.json"
FINAL = "final"

WORTH_KEEPING = 2
"""A single part is made again within a second: a folder left behind would be the greater nuisance."""


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part: its folder of files is ``store.folder / name``; ``counts`` are numbers its maker wanted kept."""

    prefix: Path
    shard: Shard
    ledger: Ledger
    counts: dict[str, int]

    def array(self, name: str, dtype: np.dtype[Any] | str) -> NDArray[Any]:
        """A flat file as a memory-mapped array."""
        path = _array_path(self.prefix, name)
        if not path.stat().st_size:
            return np.zeros(0, dtype)
        return np.memmap(path, dtype, mode="r")

    def path(self, name: str) -> Path:
        return _array_path(self.prefix, name)

    @property
    def rejects(self) -> Path:
        return _rejects_path(self.prefix)


class PartWriter:
    """Writes the files of one part; nothing counts before ``finish``."""

    def __init__(self, prefix: Path, shard: Shard, names: Sequence[str]) -> None:
        self._prefix = prefix
        self._shard = shard
        self._arrays: dict[str, IO[bytes]] = {name: _array_path(prefix, name).open("wb") for name in names}
        self._rejects = _rejects_path(prefix).open("wb")

    def add(self, name: str, values: NDArray[Any]) -> None:
        self._arrays[name].write(np.ascontiguousarray(values).data)

    def lost(self, line: str) -> None:
        """A line for ``rejects.jsonl``."""
        self._rejects.write(line.encode() + b"\n")

    def finish(self, ledger: Ledger, counts: dict[str, int]) -> None:
        """Close the files and write the marker, by a rename."""
        self.close()
        files = [Path(file.name) for file in (*self._arrays.values(), self._rejects)]
        marker = {
            "shard": _identity(self._shard),
            "sizes": {file.name: file.stat().st_size for file in files},
            "ledger": ledger.to_dict(),
            "counts": counts,
        }
        aside = self._prefix.with_name(f"{self._prefix.name}.{MARKER}.{os.getpid()}")
        aside.write_text(json.dumps(marker, ensure_ascii=False), encoding="utf-8")
        aside.replace(_marker_path(self._prefix))

    def close(self) -> None:
        for file in (*self._arrays.values(), self._rejects):
            file.close()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self.close()


@dataclass(slots=True)
class PartStore:
    """The folder of one output's parts; open it with ``open_parts``."""

    folder: Path
    settings: Settings

    @property
    def final(self) -> Path:
        """Where the finished set is written before it is published."""
        folder = self.folder / FINAL
        folder.mkdir(exist_ok=True)
        return folder

    def prefix(self, shard: Shard) -> Path:
        return self.folder / f"{shard.index:05d}"

    def finished(self, shard: Shard) -> Part | None:
        """The part of this very shard, if it is whole."""
        prefix = self.prefix(shard)
        try:
            marker = json.loads(_marker_path(prefix).read_bytes())
            is_whole = marker["shard"] == _identity(shard) and all(
                (self.folder / name).stat().st_size == size for name, size in marker["sizes"].items()
            )
            return Part(prefix, shard, Ledger.from_dict(marker["ledger"]), marker["counts"]) if is_whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def num_finished(self) -> int:
        return len(list(self.folder.glob(f"*.{MARKER}")))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def open_parts(prefix: Path, settings: Settings, run: Run) -> Iterator[PartStore]:
    """The parts of the output ``prefix``; those of other settings are removed.

    The folder goes away when the body removes it, or fails with less than two parts finished; otherwise it stays for
    the next run.
    Runs that do a share of the data each may work on it at the same time; ConfigError SP303 if it is taken. A full
    disk, and a folder that may not be written to, become a DeviceError.
    """
    folder = parts_folder(prefix)
    with disk_errors(prefix.parent):
        make_folder(folder)
        with _locked(folder, shared=run.leaves_parts):
            store = PartStore(folder, settings)
            _adopt(store, run)
            try:
                yield store
            except BaseException:
                if (count := store.num_finished()) >= WORTH_KEEPING:
                    run.say(f"{count:,} finished parts are kept in {folder}: the same command goes on from there")
                raise
            finally:
                shutil.rmtree(folder / FINAL, ignore_errors=True)
                if not run.leaves_parts and folder.exists() and store.num_finished() < WORTH_KEEPING:
                    store.remove()


def parts_folder(prefix: Path) -> Path:
    """A name without the machine's, since several machines may share it."""
    return prefix.parent / f".{prefix.name}.parts"


def saved_run(prefix: Path) -> Path:
    """The options of the run whose parts are kept for ``prefix``; DataError if there are none."""
    path = parts_folder(prefix) / RUN
    if not path.is_file():
        raise DataError(
            "SP304",
            f"there are no parts for {prefix} ({path.parent} is not there)",
            help="give the --output-prefix of the runs with --shard-index; merging again what is merged is not needed",
        )
    return path


def _adopt(store: PartStore, run: Run) -> None:
    """Make the folder that of these settings."""
    key = store.folder / KEY
    try:
        before = json.loads(key.read_bytes())
    except (OSError, ValueError):
        before = None
    if before is not None and (changed := differences(before, store.settings)):
        count = store.num_finished()
        for path in store.folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if count:
            run.say(f"{count:,} finished parts of an earlier run are not used (SP301): {'; '.join(changed)}")
    elif before is not None and (count := store.num_finished()):
        run.say(f"going on with an earlier run: {count:,} parts are finished")
    for name, text in ((KEY, json.dumps(store.settings, ensure_ascii=False)), (RUN, run.to_json())):
        aside = store.folder / f"{name}.{os.getpid()}"
        aside.write_text(text, encoding="utf-8")
        aside.replace(store.folder / name)


_LOCK = "lock"


@contextlib.contextmanager
def _locked(folder: Path, *, shared: bool) -> Iterator[None]:
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "SP303",
                f"another run is writing to {folder}",
                help="wait for it, or choose another --output-prefix",
            ) from error
        yield


def _identity(shard: Shard) -> dict[str, Any]:
    return {name: str(value) if name == "file" else value for name, value in asdict(shard).items()}


def _array_path(prefix: Path, name: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{name}.bin")


def _rejects_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.rejects.jsonl")


def _marker_path(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.{MARKER}")
