"""Alpaca rows: what becomes a sample, what is rejected and why."""

from __future__ import annotations

import pytest

from seqpack.core.errors import ConfigError, RejectError
from seqpack.core.types import Message
from seqpack.handlers.alpaca import AlpacaHandler

ROW = {"instruction": "Add.", "input": "1 + 1", "output": "2"}


def messages(row: dict, **columns: str | None) -> list[tuple[str, str]]:
    (sample,) = AlpacaHandler(columns)(row)
    return [(message.role, message.content) for message in sample.messages]


def rejection(row: dict, **columns: str | None) -> RejectError:
    with pytest.raises(RejectError) as error:
        list(AlpacaHandler(columns)(row))
    return error.value


def test_instruction_and_input_are_the_turn_of_the_user():
    assert messages(ROW) == [("user", "Add.\n1 + 1"), ("assistant", "2")]


@pytest.mark.parametrize(
    ("change", "user"),
    [
        ({"input": ""}, "Add."),
        ({"input": None}, "Add."),
        ({"instruction": ""}, "1 + 1"),
        ({"instruction": None}, "1 + 1"),
        ({"extra": 3}, "Add.\n1 + 1"),
        ({"instruction": " Add. \n"}, " Add. \n\n1 + 1"),
    ],
)
def test_empty_parts_are_left_out_and_texts_stay_as_they_are(change, user):
    assert messages(ROW | change) == [("user", user), ("assistant", "2")]


def test_input_may_be_missing():
    assert messages({"instruction": "Add.", "output": "2"}) == [("user", "Add."), ("assistant", "2")]


def test_history_and_system_come_first():
    row = ROW | {"system": "Be kind.", "history": [["Hi", "Hi!"], ("And?", "So.")]}
    assert messages(row) == [
        ("system", "Be kind."),
        ("user", "Hi"), ("assistant", "Hi!"),
        ("user", "And?"), ("assistant", "So."),
        ("user", "Add.\n1 + 1"), ("assistant", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize("empty", [{"system": ""}, {"system": None}, {"history": []}, {"history": None}])
def test_empty_history_and_system_are_none(empty):
    assert messages(ROW | empty) == messages(ROW)


def test_whether_a_turn_is_trained_is_left_to_the_template():
    (sample,) = AlpacaHandler({})(ROW)
    assert sample.messages[-1] == Message("assistant", "2", train=None)


def test_columns_can_be_renamed():
    row = {"question": "Add.", "more": "1 + 1", "answer": "2", "persona": "Be kind.", "before": [["Hi", "Hi!"]]}
    columns = {"prompt": "question", "query": "more", "response": "answer", "system": "persona", "history": "before"}
    assert messages(row, **columns) == messages(ROW | {"system": "Be kind.", "history": [["Hi", "Hi!"]]})


@pytest.mark.parametrize("part", ["query", "system", "history"])
def test_a_part_can_be_switched_off(part):
    row = ROW | {"system": "Be kind.", "history": [["Hi", "Hi!"]]}
    column = {"query": "input"}.get(part, part)
    assert messages(row, **{part: None}) == messages({key: value for key, value in row.items() if key != column})


@pytest.mark.parametrize("part", ["prompt", "response"])
def test_what_makes_a_sample_cannot_be_switched_off(part):
    with pytest.raises(ConfigError, match=f"'{part}' cannot be switched off") as error:
        AlpacaHandler({part: None})
    assert error.value.code == "SP010"


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'response'") as error:
        AlpacaHandler({"respons": "answer"})
    assert error.value.code == "SP010" and "'respons'" in error.value.message


@pytest.mark.parametrize("column", ["instruction", "output"])
def test_a_missing_column_is_marked(column):
    error = rejection({key: value for key, value in ROW.items() if key != column})
    assert error.missing_column and error.reason == f"no column '{column}'"


@pytest.mark.parametrize(
    ("part", "column"), [("query", "more"), ("system", "persona"), ("history", "before"), ("response", "answer")]
)
def test_a_column_that_was_named_must_be_there(part, column):
    error = rejection(ROW, **{part: column})
    assert error.missing_column and error.reason == f"no column '{column}'"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": ""}, "empty 'output'"),
        ({"output": None}, "empty 'output'"),
        ({"instruction": "", "input": ""}, "empty 'instruction'"),
        ({"instruction": 3}, "'instruction' is int, not text"),
        ({"input": ["1"]}, "'input' is list, not text"),
        ({"output": {"text": "2"}}, "'output' is dict, not text"),
        ({"output": False}, "'output' is bool, not text"),
        ({"system": 0}, "'system' is int, not text"),
    ],
)
def test_what_is_no_text_is_rejected(change, reason):
    error = rejection(ROW | change)
    assert error.reason == reason and not error.missing_column


@pytest.mark.parametrize(
    "history",
    [
        "Hi",
        ["Hi"],
        [["Hi"]],
        [["Hi", "Hi!", "And?"]],
        [["Hi", None]],
        [["Hi", 3]],
        [{"user": "Hi"}],
        {"a": "b"},
        5,
        True,
    ],
    ids=repr,
)
def test_a_history_of_another_form_is_rejected(history):
    assert rejection(ROW | {"history": history}).reason == "'history' is not a list of [user, assistant] pairs of text"


def test_the_reason_names_the_column_of_the_data():
    assert (
        rejection({"question": "Add.", "answer": ""}, prompt="question", response="answer").reason == "empty 'answer'"
    )
