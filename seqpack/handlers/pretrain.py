"""Pretraining text: from columns as they are, or from rows made for instruction tuning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import TextSample
from seqpack.handlers.columns import ColumnMap, as_text
from seqpack.handlers.turns import turns_of
from seqpack.hooks.specs import HandlerOptions

_FILE_NAME = re.compile(r"[^/\\\x00]{1,100}")

ALPACA_TEXT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.USER: Below is an instruction that describes a task. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\n{prompt}\n\n{query}"
    "### Response: ASSISTANT: {response}"
)
"""The text MindSpeed-LLM makes of an Alpaca row, without the ``###None`` it writes for an empty ``input``."""


class GeneralPretrainHandler:
    """One document per row and column of ``json_keys`` (default ``text``), as it stands there.

    A row whose columns are all empty is rejected; if only some are, the others keep their place.
    """

    def __init__(self, text_keys: tuple[str, ...]) -> None:
        self.text_keys = text_keys

    @classmethod
    def from_options(cls, options: HandlerOptions) -> GeneralPretrainHandler:
        return cls(_keys(options.only("json_keys", handler="GeneralPretrainHandler"), default="text"))

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        yield _sample(self.text_keys, [as_text(_value(record, key), key) for key in self.text_keys])


class SharegptPretrainHandler:
    """The turns of a conversation, joined without anything between them, as one document.

    ``json_keys`` names the columns with the conversations (default ``conversations``); the text of a turn is its
    ``value`` or its ``content``.
    """

    def __init__(self, text_keys: tuple[str, ...]) -> None:
        self.text_keys = text_keys

    @classmethod
    def from_options(cls, options: HandlerOptions) -> SharegptPretrainHandler:
        return cls(_keys(options.only("json_keys", handler="SharegptPretrainHandler"), default="conversations"))

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        yield _sample(self.text_keys, ["".join(_turn_texts(record, key)) for key in self.text_keys])


class AlpacaPretrainHandler:
    """An Alpaca row inside a fixed text, as one document; ``columns`` maps prompt, query, response."""

    text_keys = ("text",)

    def __init__(self, columns: Mapping[str, Any]) -> None:
        parts = {"prompt": "instruction", "query": "input", "response": "output"}
        self._columns = ColumnMap("an Alpaca row", parts, columns, required=("prompt", "response"))

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        texts = {part: self._columns.text(record, part) for part in ("prompt", "query", "response")}
        for part in ("prompt", "response"):
            if not texts[part]:
                raise RejectError(f"empty {self._columns.name(part)!r}")
        query = f"### Input:\n{texts['query']}\n\n" if texts["query"] else ""
        yield TextSample((ALPACA_TEXT.format(**(texts | {"query": query})),))


def is_file_name(key: str) -> bool:
    """Whether a key can be part of a file's name."""
    return bool(_FILE_NAME.fullmatch(key))


def _keys(options: HandlerOptions, *, default: str) -> tuple[str, ...]:
    keys = options.json_keys or (default,)
    for key in keys:
        if not is_file_name(key) or keys.count(key) > 1:
            raise ConfigError(
                "SP020",
                f"--json-keys: {key!r} is given twice or cannot be part of a file name",
                help="rename the column",
            )
    return keys


def _value(record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise RejectError(f"no column {key!r}", missing_column=True)
    return record[key]


def _turn_texts(record: Mapping[str, Any], key: str) -> Iterator[str]:
    value = _value(record, key)
    for turn in turns_of(value, key) if value else ():
        if "value" not in turn and "content" not in turn:
            raise RejectError("message without 'value' and without 'content'", missing_column=True)
        yield as_text(turn.get("value", turn.get("content")), "value")


def _sample(keys: tuple[str, ...], texts: list[str]) -> TextSample:
    if not any(texts):
        raise RejectError(f"empty {', '.join(map(repr, keys))}")
    return TextSample(tuple(texts))
