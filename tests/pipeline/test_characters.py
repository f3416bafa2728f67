"""Characters as they were counted before there were tokens."""

from __future__ import annotations

import pytest

from seqpack.core.errors import DataError
from seqpack.options.data import InputOptions
from seqpack.pipeline.characters import characters


def test_instruction_input_and_output_together(write_jsonl):
    rows = [
        {"instruction": "ab", "input": "", "output": "cde"},
        {"instruction": "a", "input": " x ", "output": "数据"},
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "input": None, "output": ""},  # of no use for training, but it has characters
    ]
    found = characters(InputOptions(input=[write_jsonl(rows)]))
    assert (found.describe["count"], found.describe["mean"]) == (4, (5 + 6 + 2 + 1) / 4)
    assert (found.describe["min"], found.describe["max"], found.rejected) == (1, 6, 0)
    assert found.counted == "instruction + input + output"


def test_columns_of_other_names(write_jsonl):
    file = write_jsonl([{"q": "abc", "more": "no", "a": "de"}])
    columns = '{"prompt": "q", "query": null, "response": "a"}'
    found = characters(InputOptions(input=[file], handler="AlpacaStyleInstructionHandler", map_keys=columns))
    assert found.describe["mean"] == 5


def test_messages_and_texts(write_jsonl):
    turns = [{"from": "human", "value": "abc"}, {"from": "gpt", "value": "de"}]
    found = characters(InputOptions(input=[write_jsonl([{"conversations": turns}, {"conversations": []}])]))
    assert (found.describe["count"], found.describe["mean"], found.rejected) == (1, 5, 1)
    assert "messages" in found.counted
    texts = characters(InputOptions(input=[write_jsonl([{"text": "abcd"}], "t.jsonl")]))
    assert texts.describe["mean"] == 4


def test_nothing_to_count(write_jsonl):
    turns = [{"from": "human", "value": "abc"}]
    with pytest.raises(DataError, match="no rows that can be counted"):
        characters(
            InputOptions(input=[write_jsonl([{"conversations": turns}])], handler="SharegptStyleInstructionHandler")
        )


def test_a_part_of_the_rows(write_jsonl):
    file = write_jsonl([{"instruction": "a" * n, "input": "", "output": "b"} for n in range(200)])
    found = characters(InputOptions(input=[file]), share=0.5, seed=3)
    assert found.seen == 200 and found.describe["count"] == found.taken and 70 < found.taken < 130
