"""Alpaca rows: ``instruction``, ``input``, ``output``, and optionally ``system`` and ``history``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqpack.core.errors import RejectError
from seqpack.core.types import Dialogue, Message, Role, Sample
from seqpack.handlers.columns import ColumnMap
from seqpack.hooks.specs import Columns

COLUMNS: dict[str, str] = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}
"""What each part of a sample is called in the data, unless ``--map-keys`` says otherwise."""

REQUIRED = ("prompt", "response")
EXCHANGE: tuple[Role, ...] = ("user", "assistant")


class AlpacaHandler:
    """One conversation per row; the user's turn is ``instruction``, a newline, ``input`` (empty parts left out).

    ``columns`` maps the parts prompt, query, response, system, history to column names; None switches a part off.
    ``history`` holds pairs of earlier user and assistant turns. A row without instruction or output, or with several
    outputs (a list), is rejected.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = ColumnMap("an Alpaca row", COLUMNS, columns, required=REQUIRED)

    def __call__(self, record: Mapping[str, Any]) -> tuple[Sample]:
        columns = self._columns
        user, response = exchange(record, columns)
        system = columns.text(record, "system")
        opening = (Message("system", system),) if system else ()
        last = (Message("user", user), Message("assistant", response))
        return (Sample((*opening, *earlier_turns(record, columns), *last)),)

    def dialogues(self, records: Sequence[Mapping[str, Any]]) -> list[Dialogue | None]:
        """See ``DatasetHandler``: rows of one exchange."""
        return exchanges(records, self._columns, but=("system", "history"))


class GeneralInstructionHandler:
    """One exchange per row out of ``instruction``, ``input``, ``output``; other columns are not read.

    MindSpeed-LLM renders these rows with a fixed Alpaca prompt: choose ``--prompt-type alpaca`` for the same.
    """

    def __init__(self, columns: Columns) -> None:
        parts = {part: COLUMNS[part] for part in ("prompt", "query", "response")}
        self._columns = ColumnMap("an instruction row", parts, columns, required=REQUIRED)

    def __call__(self, record: Mapping[str, Any]) -> tuple[Sample]:
        user, response = exchange(record, self._columns)
        return (Sample((Message("user", user), Message("assistant", response))),)

    def dialogues(self, records: Sequence[Mapping[str, Any]]) -> list[Dialogue | None]:
        """See ``DatasetHandler``."""
        return exchanges(records, self._columns)


def exchange(record: Mapping[str, Any], columns: ColumnMap) -> tuple[str, str]:
    """What the user says and the reply; RejectError if one is empty."""
    prompt, query, response = columns.texts(record, ("prompt", "query", "response"))
    if not response:
        raise RejectError(f"empty {columns.name('response')!r}")
    return _asked(prompt, query, columns), response


def exchanges(
    records: Sequence[Mapping[str, Any]], columns: ColumnMap, *, but: Sequence[str] = ()
) -> list[Dialogue | None]:
    """The rows that have just a prompt, a response and maybe a query, None for all others.

    Nor may a row have columns for the parts ``but``.
    """
    if any(columns.is_expected(part) for part in ("query", *but)):  # a row without such a column is an error
        return [None] * len(records)
    prompt, query, response = (columns.column(part) for part in ("prompt", "query", "response"))
    other = frozenset(columns.column(part) for part in but)
    return [
        (EXCHANGE, (f"{asked}\n{about}" if about else asked, reply))
        if asked
        and reply
        and type(asked) is type(reply) is str
        and (type(about) is str or about is None)
        and other.isdisjoint(record)
        else None
        for record in records
        for asked, about, reply in ((record.get(prompt), record.get(query), record.get(response)),)
    ]


def question(record: Mapping[str, Any], columns: ColumnMap) -> str:
    """Prompt, newline, query (empty parts left out); RejectError if both are empty."""
    prompt, query = columns.texts(record, ("prompt", "query"))
    return _asked(prompt, query, columns)


def _asked(prompt: str, query: str, columns: ColumnMap) -> str:
    asked = f"{prompt}\n{query}" if prompt and query else prompt or query
    if not asked:
        raise RejectError(f"empty {columns.name('prompt')!r}")
    return asked


def earlier_turns(record: Mapping[str, Any], columns: ColumnMap) -> list[Message]:
    """The messages of ``history``; RejectError if it is not a list of pairs of text."""
    messages: list[Message] = []
    history = columns.value(record, "history") or ()
    for turn in history if isinstance(history, list | tuple) else (history,):
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise RejectError(f"{columns.name('history')!r} is not a list of [user, assistant] pairs of text")
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    return messages
