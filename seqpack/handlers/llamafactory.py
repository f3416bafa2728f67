"""LLaMA-Factory's ``dataset_info.json``: data sets by name, with their files, columns and tags."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.suggest import did_you_mean
from seqpack.core.types import Sample
from seqpack.handlers.alpaca import AlpacaHandler
from seqpack.handlers.openai import OpenAIHandler
from seqpack.handlers.pairwise import AlpacaPairwiseHandler, SharegptPairwiseHandler
from seqpack.handlers.sharegpt import SharegptHandler
from seqpack.hooks.specs import Columns, DatasetHandler, HandlerOptions

FILE = "dataset_info.json"
FORMATS: dict[str, Callable[[Columns], DatasetHandler]] = {
    "alpaca": AlpacaHandler,
    "sharegpt": SharegptHandler,
    "openai": OpenAIHandler,
}
RANKING: dict[str, Callable[[Columns], DatasetHandler]] = {
    "alpaca": AlpacaPairwiseHandler,
    "sharegpt": SharegptPairwiseHandler,
}
"""For entries with ``ranking: true``."""
ENTRY_KEYS = ("file_name", "formatting", "columns", "tags", "ranking")
REMOTE_KEYS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


class LlamaFactoryHandler:
    """``--input`` names entries of ``DATASET_DIR/dataset_info.json``, separated by commas; each is read its own way.

    Called itself, it reads a row as it would one of an entry that says nothing but a file: Alpaca.
    """

    def __init__(self, folder: Path, entries: Mapping[str, Any]) -> None:
        self._folder, self._entries = folder, entries
        self._rows = AlpacaHandler({})

    @classmethod
    def from_options(cls, options: HandlerOptions) -> LlamaFactoryHandler:
        folder = options.only("dataset_dir", handler="LlamaFactoryInstructionHandler").dataset_dir
        if folder is None:
            raise ConfigError(
                "SP022", f"there is no --dataset-dir, the folder with {FILE}", help="add --dataset-dir DIR"
            )
        return cls(folder, _read(folder / FILE))

    def __call__(self, record: Mapping[str, Any]) -> Iterable[Sample]:
        return self._rows(record)

    def datasets(self, names: Iterable[str]) -> list[tuple[Path, DatasetHandler]]:
        """File or folder, and handler, of each data set; ConfigError naming it if it is unknown, or cannot be read."""
        return [self._data_set(name) for name in self.names(names)]

    def names(self, names: Iterable[str]) -> list[str]:
        """The names of single data sets."""
        return [name.strip() for listed in names for name in listed.split(",") if name.strip()]

    def entry(self, name: str) -> dict[str, Any]:
        """What the file says of a data set; ConfigError if it is not there, or not as it should be."""
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(map(str, list(self._entries)[:20]))
            hint = did_you_mean(name, self._entries)
            raise self._wrong(name, "is not there", help=f"{hint} known: {known}".strip())
        if not isinstance(entry, dict):
            raise self._wrong(name, "is not an object")
        if remote := [key for key in REMOTE_KEYS if key in entry and "file_name" not in entry]:
            raise self._wrong(name, f"is not a local file ({remote[0]})", help="download it and give its file_name")
        for key in entry:
            if key not in (*ENTRY_KEYS, *REMOTE_KEYS):
                raise self._wrong(name, f"has {key!r}, which is not supported", help=did_you_mean(key, ENTRY_KEYS))
        if not isinstance(entry.get("file_name"), str):
            raise self._wrong(name, "has no file_name")
        return entry

    def _data_set(self, name: str) -> tuple[Path, DatasetHandler]:
        entry = self.entry(name)
        return self._folder / entry["file_name"], self._handler(name, entry)

    def _handler(self, name: str, entry: Mapping[str, Any]) -> DatasetHandler:
        formatting = entry.get("formatting", "alpaca")
        formats = RANKING if entry.get("ranking") else FORMATS
        if formatting not in formats:
            hint = did_you_mean(str(formatting), formats)
            help = f"{hint} known: {', '.join(formats)}".strip()
            raise self._wrong(name, f"has the unknown formatting {formatting!r}", help=help)
        columns, tags = entry.get("columns", {}), entry.get("tags")
        if not isinstance(columns, dict):
            raise self._wrong(name, "has columns that are not an object")
        if tags is not None and formatting != "sharegpt":
            raise self._wrong(name, f"has tags, which {formatting} rows do not")
        # LLaMA-Factory reads these parts only where an entry names them.
        silent: dict[str, Any] = dict.fromkeys(("system", "history" if formatting == "alpaca" else "tools"))
        try:
            return formats[formatting](silent | columns | ({"tags": tags} if tags is not None else {}))
        except ConfigError as error:
            message = error.message.removeprefix("--map-keys: ")
            raise self._wrong(name, f"cannot be used: {message}", help=error.help) from error

    def _wrong(self, name: str, what: str, *, help: str = "") -> ConfigError:
        return ConfigError("SP022", f"data set {name!r} of {self._folder / FILE} {what}", help=help)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError("SP101", f"there is no {path}", help="check --dataset-dir")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError("SP103", f"{path} is not valid JSON: {error}", help="mend that file") from error
    if not isinstance(value, dict):
        raise DataError("SP103", f"{path} is not an object of data sets by name", help="mend that file")
    return value
