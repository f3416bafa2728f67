"""Templates, labels and control text through the whole of preprocess and stats."""

from __future__ import annotations

import json

import numpy as np
import pytest

from seqpack.core.errors import ConfigError
from seqpack.core.types import IGNORE_INDEX
from seqpack.text.tokenizer import Tokenizer

END = "<|im_end|>"
ROW = {
    "instruction": f"Say {END} twice.",
    "input": "",
    "output": f"{END}{END}",
    "history": [["Hi", "Hello!"], ["How are you?", "Well."]],
}


@pytest.fixture
def data(write_jsonl):
    return write_jsonl([ROW] * 3)


def row(runs, data, **options):
    """Ids and labels of the first row."""
    runs.preprocess(data, overwrite=True, **options)
    first = runs.open("out")[0]
    return first.input_ids, first.labels


def trained(tokenizer_dir, ids, labels) -> str:
    return Tokenizer(tokenizer_dir).decode(ids[labels != IGNORE_INDEX].tolist())


def test_control_text_stays_text_unless_asked_for(runs, data, tokenizer_dir):
    end = Tokenizer(tokenizer_dir).token_id(END)
    ids, _ = row(runs, data)
    assert np.count_nonzero(ids == end) == 7
    same, _ = row(runs, data, allow_special_tokens=True)
    assert np.count_nonzero(same == end) == 10
    decode = Tokenizer(tokenizer_dir).decode
    assert decode(ids.tolist()) == decode(same.tolist())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, f"Hello!{END}Well.{END}{END}{END}{END}"),
        ({"train_on": "last"}, f"{END}{END}{END}"),
        ({"mask_history": True}, f"{END}{END}{END}"),
    ],
)
def test_what_is_trained_on(runs, data, tokenizer_dir, options, text):
    assert trained(tokenizer_dir, *row(runs, data, **options)) == text


@pytest.mark.parametrize("options", [{"train_on": "all"}, {"train_on_prompt": True}])
def test_everything_is_trained_on(runs, data, options):
    ids, labels = row(runs, data, **options)
    assert np.array_equal(ids, labels)


def test_the_recipe_says_how(runs, data):
    manifest = runs.preprocess(data, prompt_type="qwen3", enable_thinking="false", mask_history=True).manifest
    assert manifest.recipe["prompt_type"] == "qwen3" and manifest.recipe["enable_thinking"] == "false"
    assert manifest.recipe["train_on"] == "last" and manifest.recipe["allow_special_tokens"] is False
    assert "im_start" in manifest.recipe["template"]


def test_a_template_without_an_end_is_warned_about(runs, data):
    for result in (runs.preprocess(data, prompt_type="empty"), runs.stats(data, prompt_type="empty")):
        assert [finding.code for finding in result.findings] == ["SP121"]
        assert "data.jsonl:1" in result.findings[0].text
    assert runs.stats(data).findings == ()


def test_flags_that_disagree_stop_before_anything_is_read(runs, data):
    with pytest.raises(ConfigError) as error:
        runs.preprocess(data, train_on_prompt=True, mask_history=True)
    assert error.value.code == "SP019" and runs.files() == {}


def test_a_chat_template_says_how_it_found_the_replies(runs, data, tmp_path, tokenizer_dir):
    source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(source)
    options = {"prompt_type": "chat-template", "prompt_type_path": tmp_path / "chat.jinja"}
    result = runs.preprocess(data, **options)
    assert "adds to the text before it" in result.note and result.findings == ()
    first = runs.open("out")[0]
    assert trained(tokenizer_dir, first.input_ids, first.labels).endswith(f"assistant\n{END}{END}{END}")


def test_efficient_ends_survive_a_cut(runs, write_jsonl, tmp_path, tokenizer_dir):
    (tmp_path / "t.yaml").write_text('user: "U:{{content}} A:"\nassistant: "{{content}}"\nefficient_eos: true\n')
    data = write_jsonl([{"instruction": "water " * 9, "input": "", "output": "water", "history": [["a", "b"]]}])
    eos = Tokenizer(tokenizer_dir).eos_token_id
    options = {"prompt_type": "t", "prompt_type_path": tmp_path}
    ids, labels = row(runs, data, **options)
    assert np.count_nonzero(ids == eos) == 1 and np.count_nonzero(labels == eos) == 2
    ids, labels = row(runs, data, seq_length=len(ids) - 3, **options)
    assert ids[-1] == labels[-1] == eos and np.count_nonzero(labels == eos) == 1


def test_settings_may_come_from_a_file(data, tokenizer_dir, tmp_path):
    from seqpack.cli.app import run

    config = {"enable_thinking": True, "prompt_type": "qwen3", "train_on": "last"}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    base = ["preprocess", str(data), "--tokenizer", str(tokenizer_dir), "-o", str(tmp_path / "x" / "out"), "-q"]
    assert run([*base, "--config", str(tmp_path / "run.yaml")]) == 0
    assert run([*base, "--overwrite", "--prompt-type", "qwen", "--enable-thinking", "true"]) == 2
