"""ShareGPT rows: ``conversations`` of turns ``{"from": "human", "value": ...}``; optionally ``system``, ``tools``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.suggest import did_you_mean
from seqpack.core.types import Dialogue, Message, Role, Sample
from seqpack.handlers.columns import TEXT, ColumnMap, as_text
from seqpack.handlers.turns import ASKS, REPLIES, check_some_reply, refuse_preferences, tools_text, train_flag, turns_of
from seqpack.hooks.specs import Columns

COLUMNS: dict[str, str] = {"messages": "conversations", "system": "system", "tools": "tools"}
TAGS: dict[str, str] = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""Keys of a turn, and the names of those who speak, unless ``tags`` of ``--map-keys`` says otherwise."""

_OPTIONAL_TAGS = ("observation_tag", "function_tag", "system_tag")
TAG_ROLES: dict[str, Role] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}


class SharegptHandler:
    """One conversation per row.

    ``columns`` maps messages, system, tools to column names, and ``tags`` to the words used inside a turn. If ``tags``
    is given, a role it does not name is not expected in the data, as with MindSpeed-LLM; the keys of a turn and the
    names of user and assistant keep their defaults. A system message comes first or from its own column. Then human or
    observation, and gpt or function_call, take turns: a row that does otherwise is rejected. ``train`` or ``weight`` of
    a turn says whether to train on it.
    """

    parts: Mapping[str, str] = COLUMNS
    required: tuple[str, ...] = ("messages",)

    def __init__(self, columns: Columns) -> None:
        tags = _tags(columns.get("tags"))
        self._role_key, self._content_key = tags["role_tag"] or "", tags["content_tag"] or ""
        self._roles = {tags[tag]: role for tag, role in TAG_ROLES.items() if tags[tag] is not None}
        if len(self._roles) < sum(tags[tag] is not None for tag in TAG_ROLES):
            raise ConfigError("SP010", "--map-keys: two tags have the same name", help="each role needs its own")
        columns = {part: column for part, column in columns.items() if part != "tags"}
        self._columns = ColumnMap("a conversation, besides 'tags',", self.parts, columns, required=self.required)
        self._orders: dict[tuple[Role, ...], bool] = {}

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        refuse_preferences(record)
        sample = self.conversation(record)
        check_order(list(sample.messages))
        yield sample

    def dialogues(self, records: Sequence[Mapping[str, Any]]) -> list[Dialogue | None]:
        """See ``DatasetHandler``: rows of nothing but turns, which say nothing about training."""
        others = ("system", "tools")
        if any(self._columns.is_expected(part) for part in others):
            return [None] * len(records)
        other = {self._columns.column(part) for part in others} | {"chosen", "rejected"}
        turns = self._columns.column("messages")
        return [self._dialogue(record.get(turns)) if other.isdisjoint(record) else None for record in records]

    def _dialogue(self, turns: Any) -> Dialogue | None:
        try:
            roles = tuple([self._roles[turn[self._role_key]] for turn in turns])
            contents = tuple([turn[self._content_key] for turn in turns])
        except (KeyError, TypeError):
            return None
        is_plain = type(turns) is list and {2}.issuperset(map(len, turns)) and TEXT.issuperset(map(type, contents))
        return (roles, contents) if is_plain and all(contents) and self._is_in_order(roles) else None

    def _is_in_order(self, roles: tuple[Role, ...]) -> bool:
        if roles not in self._orders:
            try:
                check_order([Message(role, "") for role in roles])
                self._orders[roles] = True
            except (RejectError, IndexError):
                self._orders[roles] = False
        return self._orders[roles]

    def conversation(self, record: Mapping[str, Any]) -> Sample:
        """The messages of a row, in whatever order of roles."""
        value = self._columns.value(record, "messages")
        turns = turns_of(value, self._columns.name("messages"))
        messages = [self.message(turn) for turn in turns]
        system = self._columns.text(record, "system")
        if messages[0].role == "system":
            if system and system != messages[0].content:
                raise RejectError("two system messages, one of them in a column of its own")
        elif system:
            messages.insert(0, Message("system", system))
        return Sample(
            tuple(messages), tools=tools_text(self._columns.value(record, "tools"), self._columns.name("tools"))
        )

    def message(self, turn: Mapping[str, Any]) -> Message:
        """A turn as a message."""
        for key in (self._role_key, self._content_key):
            if key not in turn:
                raise RejectError(f"message without {key!r}", missing_column=True)
        role = self._roles.get(turn[self._role_key]) if isinstance(turn[self._role_key], str) else None
        if role is None:
            raise RejectError(f"unknown role {str(turn[self._role_key])[:40]!r}")
        return Message(role, self._content(turn[self._content_key], role), train_flag(turn))

    def _content(self, value: Any, role: Role) -> str:
        if role == "function" and isinstance(value, Mapping | list):
            return json.dumps(value, ensure_ascii=False)
        text = as_text(value, self._content_key)
        if not text and role in ("assistant", "function"):
            raise RejectError("empty reply")
        return text


def _tags(given: Any) -> dict[str, str | None]:
    if given is None:
        return dict(TAGS)
    if not isinstance(given, Mapping):
        raise ConfigError("SP010", "--map-keys: 'tags' is not an object", help=f"tags: {', '.join(TAGS)}")
    for tag in given:
        if tag not in TAGS:
            hint = did_you_mean(tag, TAGS)
            raise ConfigError("SP010", f"--map-keys: no tag {tag!r}", help=f"{hint} tags: {', '.join(TAGS)}".strip())
    return {tag: given.get(tag) or (None if tag in _OPTIONAL_TAGS else name) for tag, name in TAGS.items()}


def check_order(messages: list[Message]) -> None:
    """RejectError unless, after a system message, those who ask and those who reply take turns, a reply last."""
    turns = messages[1:] if messages[0].role == "system" else messages
    for place, message in enumerate(turns):
        if message.role not in (REPLIES if place % 2 else ASKS):
            raise RejectError(f"{message.role} message where {'a reply' if place % 2 else 'a question'} belongs")
    check_some_reply(messages)
