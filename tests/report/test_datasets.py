"""Screens show the numbers they were given, whatever is in the data."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from seqpack.core.ledger import Ledger
from seqpack.core.types import MaskMode
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.options.output import OutputOptions
from seqpack.pipeline.preprocess import DataSetResult, preprocess
from seqpack.pipeline.show import ShownPack, ShownSample, ShownToken, show
from seqpack.report.console import Console
from seqpack.report.datasets import data_set_line, ledger_table
from seqpack.report.packs import pack_screen
from seqpack.report.written import report_data_set


def rendered(*renderables: object, width: int = 160) -> str:
    console = RichConsole(file=io.StringIO(), width=width)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(padding=1000)
    ledger.keep(6000, 4000, original=7500)
    ledger.keep(3000, 1000)
    ledger.drop("longer than --seq-length", 9876)
    ledger.reject("empty 'output'")
    return ledger


def test_the_ledger_lists_every_token(ledger):
    text = rendered(ledger_table(ledger))
    assert ["rejected:", "empty", "'output'", "1", "–", "not", "counted", "as", "read"] in lines(text)
    assert ["read", "3", "20,376"] in lines(text)
    assert lines(text)[3][:4] == ["−", "truncated", "(1)", "1,500"]
    assert ["−", "dropped:", "longer", "than", "--seq-length", "1", "9,876"] in lines(text)
    assert "trained 5,000 · context 4,000" in text
    assert "10.0 % of 10,000" in text


def test_a_ledger_without_losses_is_short():
    ledger = Ledger()
    ledger.keep(10, 4)
    text = rendered(ledger_table(ledger))
    assert len(lines(text)) == 3
    assert not any(word in text for word in ("rejected", "truncated", "dropped", "padding"))


@pytest.mark.parametrize("reason", ["[user, assistant] pairs", "[/b]", "no column '[red]x'"])
def test_reasons_are_text_not_markup(reason):
    ledger = Ledger()
    ledger.reject(reason)
    ledger.drop(reason, 5)
    text = rendered(ledger_table(ledger))
    assert f"rejected: {reason}" in text and f"dropped: {reason}" in text


def manifest(ledger: Ledger, **values) -> Manifest:
    made = {
        "packed": True, "seq_length": 5000, "strategy": "greedy", "mask": MaskMode.BLOCK_CAUSAL, "seed": 0,
        "num_rows": 2, "num_samples": 5, "ledger": ledger, "tokenizer": TokenizerRecord("", "", 1, None, 0),
        "recipe": {}, "inputs": {}, "files": {}, "seqpack_version": "0",
    }  # fmt: skip
    return Manifest(**made | values)


def test_the_line_about_a_set(ledger):
    assert data_set_line(manifest(ledger)) == (
        "2 packs of 5,000 · 90.0 % filled · 2.5 samples each · greedy · mask block-causal"
    )
    assert data_set_line(manifest(ledger, num_rows=1, seq_length=9000)).startswith("1 pack of 9,000 · 100.0 % filled")
    plain = manifest(ledger, packed=False, seq_length=None, strategy=None, mask=None, num_rows=1234)
    assert data_set_line(plain) == "1,234 sequences, one sample each"


@pytest.fixture
def alpaca(write_jsonl):
    rows = [{"instruction": f"Say {n}.", "output": " water" * (n * 5 + 1)} for n in range(20)]
    return write_jsonl([*rows, {"instruction": "Hi", "output": ""}])


@pytest.fixture
def written(alpaca, tokenizer_dir, tmp_path) -> DataSetResult:
    return preprocess(
        InputOptions(input=[alpaca]),
        TextOptions(tokenizer=tokenizer_dir),
        LengthOptions(seq_length=100, max_drop=1.0),
        PackOptions(neat_pack=True),
        WriteOptions(output_prefix=tmp_path / "sets" / "out"),
    )


@pytest.mark.parametrize("with_tokens", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_a_pack(written, with_tokens, mask):
    shown = show(written.paths.prefix, 0, with_tokens=with_tokens)
    text = rendered(*pack_screen(shown, mask=mask))
    assert f"pack 0 of {shown.num_rows}" in text and f"{shown.num_tokens} / 100 tokens" in text
    for sample in shown.samples:
        assert sample.key.rpartition("/")[2] in text
        assert f"{sample.first}-{sample.first + sample.num_tokens - 1}" in text
    assert ("rows attend to columns" in text) == mask
    assert ("position" in text) == with_tokens
    if with_tokens:
        assert "<|im_start|>" in text and sum(row[0] == "99" for row in lines(text)) == 1


def shown_pack(**values) -> ShownPack:
    made = {
        "row": 0, "num_rows": 1, "num_tokens": 6, "num_padding": 2, "mask": MaskMode.BLOCK_CAUSAL,
        "samples": (ShownSample(0, "data/[a].jsonl:3", 6, 4, 0, "[/b] :smile: [red]x"),),
        "tokens": (ShownToken(0, 7, "[/i]\n", 7, 9, 0, 0),), "attended_share": 0.5,
        "picture": ((0.5, 0.0, 0.0), (1.0, 0.25, 0.0), (0.1, 0.0, 0.0)), "tokenizer_note": "no texts: [x] is gone",
    }  # fmt: skip
    return ShownPack(**made | values)


def test_texts_of_a_pack_are_text_not_markup():
    text = rendered(*pack_screen(shown_pack(), mask=False))
    for piece in ("[a].jsonl:3", "[/b] :smile: [red]x", r"[/i]\n", "no texts: [x] is gone"):
        assert piece in text


def test_the_mask_is_drawn_in_shades():
    text = rendered(*pack_screen(shown_pack(), mask=True))
    assert "  ██\n  ██▒▒\n  ░░\n  (the blank end is 25.0 % padding)\n" in text
    assert "a cell is 2.667 tokens" in text


def report(written: DataSetResult, **options: bool) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    report_data_set(Console(OutputOptions(**options), stdout=out, stderr=err), written)
    return out.getvalue(), err.getvalue()


def test_what_is_said_after_writing(written):
    out, err = report(written)
    assert data_set_line(written.manifest) in out
    assert str(written.paths.manifest) in out
    assert "rejected: empty 'output'" in out
    assert "warning[SP102]: 1 row left out" in err
    assert f"warning[SP111]: {written.ledger.truncated.samples} samples lost" in err
    assert str(written.paths.rejects) in err


def test_what_programs_get(written):
    import json

    out, _ = report(written, json=True)
    value = json.loads(out)
    assert value["manifest"] == str(written.paths.manifest) and value["rows"] == written.manifest.num_rows
    assert (value["seq_length"], value["mask"], value["strategy"]) == (100, "block-causal", "balanced")
    assert Ledger.from_dict(value["ledger"]) == written.ledger


def test_a_run_without_losses_warns_of_nothing(written, ledger):
    clean = Ledger()
    clean.keep(10, 4)
    _, err = report(DataSetResult(written.paths, manifest(clean)))
    assert err == ""
