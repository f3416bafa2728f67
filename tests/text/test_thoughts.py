"""Thoughts kept, removed, or put in empty; tests/text/test_all_templates.py has the ids."""

from __future__ import annotations

import pytest

from seqpack.text.thoughts import Thoughts

EMPTY = "<think>\n\n</think>\n\n"
GIVEN = "<think>\nHm.\n</think>\n\nSo."


@pytest.mark.parametrize(
    ("content", "thinking", "prompt", "prefix", "text"),
    [
        (GIVEN, None, "", "", GIVEN),
        ("So.", None, EMPTY, "", "So."),
        (GIVEN, True, "", "", GIVEN),
        ("So.", True, "", EMPTY, "So."),
        (GIVEN, False, EMPTY, "", "So."),
        ("So.", False, EMPTY, "", "So."),
        ("<think>Hm.</think>So.", None, "", "", "<think>Hm.</think>So."),
        ("<think>Hm.</think>So.", False, EMPTY, "", "So."),
        ("A<think>\nx\n</think>\n\nB", False, EMPTY, "", "AB"),
    ],
)
def test_empty_thoughts(content, thinking, prompt, prefix, text):
    reply = Thoughts().reply(content, thinking=thinking, keep=True)
    assert (reply.prompt, reply.prefix, reply.rendered().text) == (prompt, prefix, text)


def test_the_marks_of_a_thought_are_not_data():
    rendered = Thoughts().reply(GIVEN, thinking=None, keep=True).rendered()
    assert [rendered.text[slice(*part)] for part in rendered.data] == ["\nHm.\n", "\n\nSo."]
    assert rendered.content == (0, len(GIVEN))


@pytest.mark.parametrize(
    ("content", "thinking", "keep", "prompt", "text"),
    [
        (GIVEN, True, True, "<think>", "Hm.</think>So."),
        ("So.", True, True, "<think>", "</think>So."),
        (GIVEN, True, False, "</think>", "So."),
        (GIVEN, False, True, "</think>", "So."),
        (GIVEN, None, True, "</think>", "So."),
    ],
)
def test_prompted_thoughts(content, thinking, keep, prompt, text):
    style = Thoughts("<think>", "</think>", "prompted")
    reply = style.reply(content, thinking=thinking, keep=keep)
    assert (reply.prompt, reply.prefix, reply.rendered().text) == (prompt, "", text)
