"""What ``--input`` names: files, folders, patterns, saved data sets and data sets of the Hugging Face hub."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.suggest import did_you_mean
from seqpack.io.readers.hub import HUB_PREFIX, hub_files, may_be_hub_name
from seqpack.io.readers.kinds import known_kinds, reader_of
from seqpack.io.readers.saved import saved_files

NOT_ROWS = re.compile(r".+_packed_(manifest\.json|rejects\.jsonl|index\.arrow)|dataset_infos?\.json")
"""Files of our own data sets and the cards of others: kinds we read, but no rows to train on."""


@dataclass(frozen=True, slots=True)
class InputNote:
    """Something about the input that a user should know; ``code`` has a page."""

    code: str
    text: str


def resolve_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The data files that ``inputs`` name, in their order; always the same files in the same order.

    A folder stands for the files of all kinds in it, by name, but not for its subfolders and hidden files; a pattern
    (``*``, ``?``, ``[]``, ``**``) for what it matches, likewise; a folder that ``datasets`` saved for its Arrow files.
    A name like ``org/name`` that cannot be meant as a path, or ``hf:org/name``, is loaded from the Hugging Face hub.
    Raises DataError for what does not exist, ConfigError for a kind of file that cannot be read.
    """
    return [file for path in inputs for file in _resolve(path)]


def input_notes(inputs: Sequence[Path], files: Iterable[Path]) -> list[InputNote]:
    """What ``resolve_inputs`` did not take from the folders and patterns, and ``files`` that come more than once."""
    unread = [path for named in inputs for path in _unread(named)]
    notes = [InputNote("SP113", f"not read: {_listed(unread)}")] if unread else []
    again = [file for file, count in Counter(files).items() if count > 1]
    return notes + ([InputNote("SP114", f"read more than once: {_listed(again)}")] if again else [])


def _resolve(path: Path) -> list[Path]:
    try:
        if str(path).startswith(HUB_PREFIX):
            return hub_files(str(path).removeprefix(HUB_PREFIX))
        if path.is_dir():
            saved = saved_files(path)
            return _data_files(path, _contents(path)) if saved is None else saved
        if path.exists():
            return [_known(path)]
        if glob.has_magic(str(path)):
            return _data_files(path, _contents(path))
        if reader_of(path) is None and may_be_hub_name(path):
            return hub_files(str(path))
        raise DataError("SP101", f"there is no file or folder {path}", help=_missing_help(path))
    except OSError as error:
        raise DataError("SP101", f"{path} cannot be opened ({error.strerror})", help="check --input") from error


def _known(path: Path) -> Path:
    if reader_of(path) is None:
        raise ConfigError("SP009", f"{path}: cannot read files of this kind", help=f"known kinds: {known_kinds()}")
    return path


def _contents(path: Path) -> list[Path]:
    """What is in a folder or matches a pattern, by name, hidden files left out."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    return sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute or not


def _is_data(path: Path) -> bool:
    return path.is_file() and reader_of(path) is not None and not _is_ours(path)


def _is_ours(path: Path) -> bool:
    """Whether it belongs to a data set of ours, or is a card; those of pretraining text have no ``_packed``."""
    if NOT_ROWS.fullmatch(path.name):
        return True
    prefix = re.sub(r"_(manifest\.json|rejects\.jsonl)$", "", path.name)
    return prefix != path.name and path.with_name(f"{prefix}_resolved.yaml").exists()


def _data_files(path: Path, contents: list[Path]) -> list[Path]:
    if files := [entry for entry in contents if _is_data(entry)]:
        return files
    if not path.is_dir():
        raise DataError("SP101", f"no data file matches {path}", help=f"check --input; known kinds: {known_kinds()}")
    folders = [entry for entry in contents if entry.is_dir()]
    help = f"its subfolders are not searched: name one, or '{path}/**/*'" if folders else "check --input"
    raise DataError("SP101", f"the folder {path} holds no files of a known kind: {known_kinds()}", help=help)


def _unread(path: Path) -> list[Path]:
    if path.is_dir() and saved_files(path) is not None:
        return []
    if path.is_dir():
        return [entry for entry in _contents(path) if not _is_data(entry)]
    if path.exists() or not glob.has_magic(str(path)):
        return []
    return [entry for entry in _contents(path) if not _is_data(entry) and not entry.is_dir()]


def _listed(paths: list[Path], most: int = 5) -> str:
    names = [f"{path}/" if path.is_dir() else str(path) for path in paths]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _missing_help(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    help = f"{did_you_mean(path.name, siblings)} check --input".strip()
    if reader_of(path) is None and may_be_hub_name(path, ignore_folders=True):
        # the folder of that name is here, so a path was meant; saying so costs less than asking the hub
        help += f"; for a data set of the Hugging Face hub write {HUB_PREFIX}{path}"
    return help
