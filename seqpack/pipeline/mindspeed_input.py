"""``--compat mindspeed``: the same files, read by MindSpeed-LLM's rules."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.handlers.detect import ALPACA, ALPACA_PAIRS, OPENAI, SHAREGPT, SHAREGPT_PAIRS, TEXT
from seqpack.handlers.llamafactory import LlamaFactoryHandler
from seqpack.handlers.mindspeed import (
    AlpacaReader,
    Columns,
    OpenAIReader,
    PairHandler,
    QuestionHandler,
    SampleHandler,
    SharegptReader,
)
from seqpack.handlers.mindspeed_text import AlpacaTextHandler, PrompterHandler, SharegptTextHandler, TextHandler
from seqpack.hooks.specs import DatasetHandler
from seqpack.io.readers import read_records
from seqpack.options.data import InputOptions
from seqpack.pipeline.inputs import ResolvedInput, handler_options

LLAMAFACTORY, GENERAL = "LlamaFactoryInstructionHandler", "GeneralInstructionHandler"
ALPACA_TEXT, SHAREGPT_TEXT = "AlpacaPretrainHandler", "SharegptPretrainHandler"
PPO, R1_ALPACA, R1_SHAREGPT = (
    "PPOAlpacaStyleInstructionHandler",
    "R1AlpacaStyleInstructionHandler",
    "R1SharegptStyleInstructionHandler",
)
PROMPTERS = (GENERAL, "BelleMultiTurnInstructionHandler", "LeetcodePythonInstructionHandler")
"""Handlers that render with a fixed text in place of a template."""


def mindspeed_input(found: ResolvedInput, input: InputOptions) -> ResolvedInput:
    """The input as MindSpeed-LLM reads it; ConfigError SP027 for a handler whose rules are not known."""
    if found.handler == LLAMAFACTORY:
        return replace(found, handlers=_data_sets(found, input))
    found = _of_one_kind(found, input.input)
    columns: Mapping[str, Any] = found.recipe["map_keys"]
    all_columns = _columns_of(found.files)
    make = _makers(found, columns, all_columns).get(found.handler)
    if make is None:
        raise unknown(f"rows of {found.handler!r}", help="leave --compat out to make the data by seqpack's own rules")
    return replace(found, handlers=[make()] * len(found.files))


def unknown(what: str, *, help: str) -> ConfigError:
    return ConfigError("SP027", f"--compat mindspeed does not know how MindSpeed-LLM treats {what}", help=help)


def _makers(
    found: ResolvedInput, columns: Mapping[str, Any], all_columns: Columns
) -> dict[str, Callable[[], DatasetHandler]]:
    """What makes their reader of each handler."""
    keys, texts = tuple(found.recipe.get("dataset_additional_keys", ())), found.text_keys
    alpaca = functools.partial(AlpacaReader, columns, all_columns)
    sharegpt = functools.partial(SharegptReader, columns, all_columns)
    makers: dict[str, Callable[[], DatasetHandler]] = {
        ALPACA: lambda: SampleHandler(alpaca()),
        SHAREGPT: lambda: SampleHandler(sharegpt()),
        OPENAI: lambda: SampleHandler(OpenAIReader(columns, all_columns)),
        ALPACA_PAIRS: lambda: PairHandler(alpaca(ranking=True)),
        SHAREGPT_PAIRS: lambda: PairHandler(sharegpt(ranking=True)),
        PPO: lambda: QuestionHandler(alpaca(), all_columns),
        R1_ALPACA: lambda: QuestionHandler(alpaca(), all_columns, keys),
        R1_SHAREGPT: lambda: QuestionHandler(sharegpt(), all_columns, keys),
        TEXT: lambda: TextHandler(texts, all_columns),
        SHAREGPT_TEXT: lambda: SharegptTextHandler(texts, all_columns),
        ALPACA_TEXT: AlpacaTextHandler,
    }
    return makers | {name: functools.partial(PrompterHandler, all_columns, name) for name in PROMPTERS}


def _data_sets(found: ResolvedInput, input: InputOptions) -> list[DatasetHandler]:
    """The reader of each file of a catalogue. A part that an entry with ``columns`` does not name is not read."""
    catalogue = LlamaFactoryHandler.from_options(handler_options(input))
    made: list[DatasetHandler] = []
    names = catalogue.names(found.recipe["datasets"])
    for number, name in enumerate(names):
        entry = catalogue.entry(name)
        formatting = entry.get("formatting", "alpaca")
        if entry.get("ranking") or formatting not in ("alpaca", "sharegpt"):
            raise unknown(
                f"the data set {name!r}, which is {'for ranking' if entry.get('ranking') else formatting}",
                help="leave --compat out, or choose another data set",
            )
        files = [file for file, place in zip(found.files, found.sets, strict=True) if place == number]
        given = entry.get("columns")
        parts: tuple[str, ...] = ("prompt", "query", "response", "history", "system")
        if formatting == "sharegpt":
            parts = ("messages", "system", "tools")
        columns: dict[str, Any] = {} if given is None else {part: given.get(part) for part in parts}
        if formatting == "sharegpt" and entry.get("tags") is not None:
            columns["tags"] = entry["tags"]
        reader = AlpacaReader if formatting == "alpaca" else SharegptReader
        made += [SampleHandler(reader(columns, _columns_of(files)))] * len(files)
    return made


def _of_one_kind(found: ResolvedInput, inputs: Sequence[Path]) -> ResolvedInput:
    """The files of the most frequent ending alone where a folder was named, as they do without a word."""
    files: list[Path] = found.files
    for folder in (path for path in inputs if path.is_dir()):
        counts = Counter(file.suffix for file in files if file.parent == folder).most_common()
        if len(counts) > 1 and counts[0][1] == counts[1][1]:
            raise unknown(
                f"the folder {folder}, which has as many {counts[0][0]} files as {counts[1][0]} files",
                help="name the files, or a pattern",
            )
        files = [file for file in files if file.parent != folder or file.suffix == counts[0][0]]
    return replace(found, files=files, handlers=found.handlers[: len(files)], sets=found.sets[: len(files)])


def _columns_of(files: Sequence[Path]) -> Columns:
    """The columns that any row of these files has; they are looked for once, if somebody asks."""

    @functools.cache
    def columns() -> frozenset[str]:
        names: set[str] = set()
        for file in files:
            for record in read_records(file):
                if isinstance(record.value, dict):
                    names |= record.value.keys()
        return frozenset(names)

    return columns
