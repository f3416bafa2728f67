"""``--handler auto``: which handler the first rows of a file ask for, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.core.suggest import did_you_mean
from seqpack.handlers import alpaca, openai, pairwise, sharegpt
from seqpack.hooks.specs import Columns, HandlerOptions

ALPACA, SHAREGPT, OPENAI, TEXT, ALPACA_PAIRS, SHAREGPT_PAIRS = (
    "AlpacaStyleInstructionHandler",
    "SharegptStyleInstructionHandler",
    "OpenAIInstructionHandler",
    "GeneralPretrainHandler",
    "AlpacaStylePairwiseHandler",
    "SharegptStylePairwiseHandler",
)
DETECTED = {
    ALPACA: "alpaca",
    SHAREGPT: "sharegpt",
    OPENAI: "openai",
    TEXT: "text",
    ALPACA_PAIRS: "pairwise",
    SHAREGPT_PAIRS: "sharegpt-pairwise",
}
"""The handlers that can be detected, with their short names."""

PARTS: dict[str, set[str]] = {
    ALPACA: {*alpaca.COLUMNS},
    SHAREGPT: {*sharegpt.COLUMNS, "tags"},
    OPENAI: {*openai.COLUMNS},
    ALPACA_PAIRS: {*pairwise.ALPACA_COLUMNS},
    SHAREGPT_PAIRS: {*pairwise.SHAREGPT_COLUMNS, "tags"},
}
"""What ``--map-keys`` may name, if it may name anything."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Match:
    """A handler that fits the rows, and what in them says so."""

    handler: str
    why: str


def detect(rows: Rows, options: HandlerOptions) -> list[Match]:
    """All handlers that fit the first rows of a file: one, if it is clear; none or several, if it is not.

    A column counts if any of the rows has it. What ``--map-keys`` and ``--json-keys`` name must fit too: parts that
    only one handler has leave only that one. Rows with two answers, ``chosen`` and ``rejected``, are preference data.
    """
    columns = {str(column) for row in rows for column in row}
    tests: dict[str, Callable[[Rows, set[str], HandlerOptions], str]] = {}
    answers = {_named(options.columns, part, part) for part in pairwise.ANSWERS}
    if not options.json_keys and answers <= columns:
        tests = {ALPACA_PAIRS: _alpaca_pairs, SHAREGPT_PAIRS: _sharegpt}
        return _matches(tests, rows, columns, options)
    if not options.json_keys:
        tests |= {ALPACA: _alpaca, SHAREGPT: _sharegpt, OPENAI: _openai}
    if not options.columns:
        tests[TEXT] = _text
    return _matches(tests, rows, columns, options)


def _matches(
    tests: Mapping[str, Callable[[Rows, set[str], HandlerOptions], str]],
    rows: Rows,
    columns: set[str],
    options: HandlerOptions,
) -> list[Match]:
    possible = {name: test for name, test in tests.items() if set(options.columns) <= PARTS.get(name, set())}
    return [Match(name, why) for name, test in possible.items() if (why := test(rows, columns, options))]


def check_parts(columns: Columns) -> None:
    """ConfigError for a part of ``--map-keys`` that none of the handlers has."""
    known = sorted(set().union(*PARTS.values()))
    for part in columns:
        if part not in known:
            help = f"{did_you_mean(part, known)} parts: {', '.join(known)}".strip()
            raise ConfigError("SP010", f"--map-keys: no part {part!r} in conversations or Alpaca rows", help=help)


def _alpaca(rows: Rows, columns: set[str], options: HandlerOptions) -> str:
    needed = [_named(options.columns, part, alpaca.COLUMNS[part]) for part in alpaca.REQUIRED]
    return _has(needed) if set(needed) <= columns else ""


def _alpaca_pairs(rows: Rows, columns: set[str], options: HandlerOptions) -> str:
    needed = [_named(options.columns, part, pairwise.ALPACA_COLUMNS[part]) for part in ("prompt", *pairwise.ANSWERS)]
    return _has(needed) if set(needed) <= columns else ""


def _sharegpt(rows: Rows, columns: set[str], options: HandlerOptions) -> str:
    tags = options.columns.get("tags")
    named = tags if isinstance(tags, Mapping) else {}
    keys = [_named(named, tag, sharegpt.TAGS[tag]) for tag in ("role_tag", "content_tag")]
    column = _named(options.columns, "messages", sharegpt.COLUMNS["messages"])
    return _turns(rows, column, keys)


def _openai(rows: Rows, columns: set[str], options: HandlerOptions) -> str:
    return _turns(rows, _named(options.columns, "messages", openai.COLUMNS["messages"]), ["role"])


def _text(rows: Rows, columns: set[str], options: HandlerOptions) -> str:
    keys = list(options.json_keys or ("text",))
    return _has(keys) if set(keys) <= columns else ""


def _named(columns: Columns, part: str, default: str) -> str:
    return str(columns.get(part) or default)


def _turns(rows: Rows, column: str, keys: list[str]) -> str:
    """Why, if the first turn there is in that column has all the keys."""
    first = next(_first_turns(rows, column), None)
    if first is None or not set(keys) <= set(first):
        return ""
    return f"column {column!r} with messages of {', '.join(map(repr, keys))}"


def _first_turns(rows: Rows, column: str) -> Iterator[Mapping[str, Any]]:
    for row in rows:
        turns = row.get(column)
        if isinstance(turns, list | tuple) and turns and isinstance(turns[0], Mapping):
            yield turns[0]


def _has(columns: list[str]) -> str:
    return f"column{'s' if len(columns) > 1 else ''} {', '.join(map(repr, columns))}"
