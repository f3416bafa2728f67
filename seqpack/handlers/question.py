"""Prompts for reinforcement learning: conversations that wait for a reply, and columns to judge it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message, Question, Sample
from seqpack.handlers import alpaca, sharegpt
from seqpack.handlers.alpaca import earlier_turns
from seqpack.handlers.columns import ColumnMap, as_text
from seqpack.handlers.pretrain import is_file_name
from seqpack.hooks.specs import Columns, HandlerOptions

PROMPT_COLUMNS = ("input_ids", "attention_mask")
LABELS = "labels"
"""Of ``--dataset-additional-keys``: the answer that the data have."""


class AlpacaPromptHandler:
    """``instruction``, ``input``, ``system``, ``history`` as a prompt; the answer, if there is one, is not read."""

    kind = "prompt"

    def __init__(self, columns: Columns, keys: tuple[str, ...] = ()) -> None:
        self.keys = keys
        self.column_names = (*PROMPT_COLUMNS, *keys)
        required = ("prompt", "response") if LABELS in keys else ("prompt",)
        self._columns = ColumnMap("an Alpaca row", alpaca.COLUMNS, columns, required=required)

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Question]:
        columns = self._columns
        user = alpaca.question(record, columns)
        system = columns.text(record, "system")
        before = [Message("system", system)] if system else []
        sample = Sample((*before, *earlier_turns(record, columns), Message("user", user)))
        yield Question(sample, extra_texts(record, self.keys, lambda: columns.text(record, "response")))


class AlpacaQuestionHandler(AlpacaPromptHandler):
    """The same with the columns of ``--dataset-additional-keys`` as texts; ``labels`` is the answer."""

    @classmethod
    def from_options(cls, options: HandlerOptions) -> AlpacaQuestionHandler:
        options.only("columns", "additional_keys", handler="R1AlpacaStyleInstructionHandler")
        return cls(options.columns, check_keys(options.additional_keys))


class SharegptQuestionHandler(sharegpt.SharegptHandler):
    """A conversation without its last reply, and ``--dataset-additional-keys``, whose ``labels`` is that reply."""

    kind = "prompt"

    def __init__(self, columns: Columns, keys: tuple[str, ...] = ()) -> None:
        super().__init__(columns)
        self.keys = keys
        self.column_names = (*PROMPT_COLUMNS, *keys)

    @classmethod
    def from_options(cls, options: HandlerOptions) -> SharegptQuestionHandler:
        options.only("columns", "additional_keys", handler="R1SharegptStyleInstructionHandler")
        return cls(options.columns, check_keys(options.additional_keys))

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Question]:  # type: ignore[override]
        (sample,) = super().__call__(record)
        *before, reply = sample.messages
        yield Question(sample._replace(messages=tuple(before)), extra_texts(record, self.keys, lambda: reply.content))


def check_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The keys; ConfigError for one that cannot be a column of its own."""
    for key in keys:
        if not is_file_name(key) or keys.count(key) > 1 or key in PROMPT_COLUMNS:
            raise ConfigError(
                "SP020",
                f"--dataset-additional-keys: {key!r} comes twice, is a column already or cannot be part of a file name",
                help="rename the column",
            )
    return keys


def extra_texts(record: Mapping[str, Any], keys: tuple[str, ...], answer: Any) -> tuple[str, ...]:
    """The text of each key's column; RejectError for one that is empty or not there."""
    texts = []
    for key in keys:
        if key != LABELS and key not in record:
            raise RejectError(f"no column {key!r}", missing_column=True)
        text = answer() if key == LABELS else as_text(record[key], key)
        if not text:
            raise RejectError(f"empty {key!r}")
        texts.append(text)
    return tuple(texts)
