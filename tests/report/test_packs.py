"""Screens of ``show``, by their text."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console as RichConsole

from seqpack.pipeline.show import ShownToken
from seqpack.pipeline.shown_documents import ShownDocument, ShownRow
from seqpack.pipeline.trace import Fate, Match, Matches, Place, Traced
from seqpack.report.packs import document_screen, matches_screen, token_list, traced_screen

TOKENS = (
    ShownToken(0, 90, "<|im_start|>", -100, None, 0, 0, is_special=True),
    ShownToken(1, 7, "[/i]\n", -100, 8, 1, 0),
    ShownToken(2, 8, "yes", 8, 91, 2, 0),
    ShownToken(3, 91, "<|im_end|>", 91, None, 3, 0, is_special=True),
    ShownToken(4, 0, "!", -100, None, 0, None),
)


def rendered(*renderables: object, width: int = 80, colour: bool = False) -> str:
    console = RichConsole(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def plain(*renderables: object) -> str:
    return "\n".join(line.rstrip() for line in rendered(*renderables).splitlines())


def test_tokens_say_what_they_are():
    assert plain(*token_list(TOKENS)) == (
        "index  id  text          label  position  segment\n"
        "    0  90  <|im_start|>      ·         0        0  special\n"
        "    1   7  [/i]\\n            ·         1        0  context\n"
        "    2   8  yes               8         2        0  trained\n"
        "    3  91  <|im_end|>       91         3        0  special, trained\n"
        "    4   0  !                 ·         0        ·  padding"
    )


def test_long_lists_have_a_line_for_each_token():
    many = tuple(ShownToken(index, 7, "数 " * (index % 40), 7, None, index, 0) for index in range(600))
    lines = plain(*token_list(many)).splitlines()
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(600))
    assert max(map(cell_len, lines)) < 80


@pytest.mark.parametrize(
    ("text", "codes"), [("yes", "32"), ("<|im_start|>", "30;43"), ("<|im_end|>", "1;4;31;43"), ("[/i]", "2")]
)
def test_tokens_have_the_colour_of_that(text, codes):
    shown = rendered(*token_list(TOKENS), width=120, colour=True)
    assert f"\x1b[{codes}m{text}" in shown


def test_the_way_of_a_row():
    place = Place(12, 3, 16, 100, 149, 20, "Count [to] ten")
    assert plain(*traced_screen(Traced("data/[a].jsonl:17", (place,), ()), 99)) == (
        "data/[a].jsonl:17 · in 1 pack of 99\n"
        "pack  #  sample  tokens  trained    place  begins with\n"
        "  12  3      16      50       20  100-149  Count [to] ten"
    )
    lost = Traced("a.jsonl:2", (), (Fate("rejected", "empty 'output'", 0), Fate("dropped", "too long", 70)))
    assert plain(*traced_screen(lost, 99)) == (
        "a.jsonl:2 · in no pack\nrejected: empty 'output'\ndropped: too long, 70 tokens lost"
    )


def test_matches_of_a_text():
    match = Match(12, 3, "data/a.jsonl:17", 123, "What is the ", " of [France]?")
    assert plain(*matches_screen(Matches("capital", 2, 3, (match,)))) == (
        "'capital' is in 3 samples of 2 packs\n"
        "pack  #  row         token  there\n"
        "  12  3  a.jsonl:17    123  What is the capital of [France]?\n"
        "and 2 more; --limit lists more"
    )
    assert plain(*matches_screen(Matches("capital", 0, 0, ()))) == "'capital' is in no sample"


def test_a_document():
    row = ShownRow(3, 1595, (ShownDocument("text", 498, "We, at", ()),), "")
    assert plain(*document_screen(row)) == (
        "document 3 of 1,595 · pretraining text: every token is trained on, nothing\npacked\n"
        "column  tokens  begins with\n"
        "text       498  We, at"
    )
