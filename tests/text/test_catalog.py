"""From --prompt-type to a template: names of the user's own, of plugins, and the tokenizer's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seqpack.core.errors import ConfigError
from seqpack.core.types import Message, Sample
from seqpack.options.data import TextOptions
from seqpack.text.catalog import open_template
from seqpack.text.mindspeed_json import from_mindspeed
from seqpack.text.template_file import template_from
from seqpack.text.tokenizer import Tokenizer

MINE = 'user: "Q: {{content}} A: "\nassistant: "{{content}}{{eos}}"\n'
ROWS = Sample((Message("user", "Hi"), Message("assistant", "Hello!")))
REFERENCE = Path(__file__).parents[1] / "golden" / "templates" / "mindspeed_templates.json"


def opened(tokenizer: Tokenizer, name: str = "mine", path: Path | None = None, **options: object):
    return open_template(
        TextOptions(tokenizer=tokenizer.directory, prompt_type=name, prompt_type_path=path, **options), tokenizer
    )


def text(template) -> str:
    return "".join(span.text for span in template.spans(ROWS))


def refused(tokenizer, **arguments) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        opened(tokenizer, **arguments)
    return error.value


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path


def test_a_file_adds_its_name(tokenizer, mine):
    found = opened(tokenizer, path=mine / "mine.yaml")
    assert (found.name, found.text, found.eos_token_id) == ("mine", MINE, tokenizer.eos_token_id)
    assert text(found.template) == "Q: Hi A: Hello!<|endoftext|>"


def test_a_folder_adds_all_its_names_and_goes_first(tokenizer, mine):
    (mine / "qwen.yaml").write_text(MINE.replace("Q:", "q:"))
    (mine / "notes.txt").write_text("not a template")
    assert text(opened(tokenizer, path=mine).template).startswith("Q:")
    assert text(opened(tokenizer, "qwen", path=mine).template).startswith("q:")
    assert text(opened(tokenizer, "chatml", path=mine).template).startswith("<|im_start|>")


def test_mindspeeds_own_file(tokenizer):
    assert text(opened(tokenizer, "qwen", REFERENCE).template) == text(opened(tokenizer, "qwen").template)
    assert text(opened(tokenizer, "minicpm3", REFERENCE).template) == "User: Hi\n\nAssistant:Hello!<|endoftext|>"


def test_its_entries_are_our_files():
    for entry in json.loads(REFERENCE.read_bytes()):
        theirs = template_from(from_mindspeed(entry)).with_tokens(bos="<s>", eos="</s>")
        assert list(theirs.spans(ROWS)), entry["name"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "x", "format_usr": {}}, "unknown key 'format_usr'; did you mean 'format_user'"),
        ({"name": "x", "template_class": "Reasoning"}, "no template_class 'Reasoning'"),
        ({"name": "x", "replace_eos": True}, "replace_eos needs stop_words"),
        ({"name": "x", "format_user": {"slots": [3]}}, "a slot is text"),
        ({"name": "x", "format_tools": {"tool_format": "qwn"}}, "no tool format 'qwn'"),
    ],
)
def test_an_entry_that_has_no_counterpart(tokenizer, tmp_path, entry, problem):
    (tmp_path / "t.json").write_text(json.dumps([entry]))
    error = refused(tokenizer, name="x", path=tmp_path / "t.json")
    assert error.code == "SP015" and problem in error.message and "t.json" in error.message


def test_an_unknown_name(tokenizer, mine):
    error = refused(tokenizer, name="mien", path=mine)
    assert error.code == "SP002"
    assert error.help.startswith("did you mean 'mine'?; in --prompt-type-path: mine; known: chat-template, alpaca, ")
    assert "did you mean 'chat-template'" in refused(tokenizer, name="chat_templat").help


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.yaml", None, "cannot be read"),
        ("t.toml", "x", "neither a folder nor"),
        ("t.json", "{", "not valid JSON"),
        ("t.json", "{}", "not a list of objects"),
        ("t.yaml", b"\xff", "cannot be read"),
    ],
)
def test_a_path_without_templates(tokenizer, tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(tokenizer, path=tmp_path / name)
    assert error.code == "SP017" and problem in error.message


def test_an_empty_folder_and_two_of_one_name(tokenizer, mine):
    (mine / "empty").mkdir()
    assert "has no .yaml" in refused(tokenizer, path=mine / "empty").message
    (mine / "mine.yml").write_text(MINE)
    assert "'mine' is in" in refused(tokenizer, path=mine).message


def test_a_broken_file_of_the_user(tokenizer, tmp_path):
    (tmp_path / "mine.yaml").write_text("user: 3")
    error = refused(tokenizer, path=tmp_path)
    assert error.code == "SP015" and "mine.yaml" in error.message


def test_tokens_the_tokenizer_lacks(tokenizer, tmp_path):
    for change in ("tokens: ['<end>']", "prefix: [{token: '<end>'}]", "separator: '<|end|>'"):
        (tmp_path / "mine.yaml").write_text(f"{MINE}{change}\n")
        assert refused(tokenizer, path=tmp_path).code == "SP016", change
    (tmp_path / "mine.yaml").write_text(f"{MINE}prefix: ['{{{{bos}}}}']\n")
    assert text(opened(tokenizer, path=tmp_path).template).startswith("Q:"), "this tokenizer has no begin token"


def test_a_tokenizer_without_an_end_token(tokenizer_dir, tmp_path):
    folder = Path(shutil.copytree(tokenizer_dir, tmp_path / "copy"))
    (folder / "tokenizer_config.json").write_text("{}")
    assert refused(Tokenizer(folder), name="alpaca").code == "SP016"
    assert opened(Tokenizer(folder), "qwen").eos_token_id == 2


def test_thinking_needs_a_template_with_thoughts(tokenizer):
    error = refused(tokenizer, name="qwen", enable_thinking="true")
    assert error.code == "SP019" and "'qwen' has no thoughts" in error.message
    assert "<think>" in text(opened(tokenizer, "qwen3", enable_thinking="true").template)


def test_the_tokenizers_own_template(tokenizer_dir, tmp_path):
    folder = Path(shutil.copytree(tokenizer_dir, tmp_path / "copy"))
    assert refused(Tokenizer(folder), name="chat-template").code == "SP017"
    source = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    config = {"eos_token": "<|endoftext|>", "chat_template": source}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = opened(Tokenizer(folder), "chat-template")
    assert found.text == source and "adds to the text before it" in found.note
    config["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": source}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert opened(Tokenizer(folder), "chat-template").text == source
    (folder / "chat_template.jinja").write_text(source + "{# file #}")
    assert opened(Tokenizer(folder), "chat-template").text == source + "{# file #}"
    (tmp_path / "own.jinja").write_text("{% generation %}{{ messages[1].content }}{% endgeneration %}")
    for name in ("chat-template", "own"):
        found = opened(Tokenizer(folder), name, tmp_path / "own.jinja")
        assert found.name == name and "marks" in found.note
    assert "is not there" not in found.note
