"""What decides a data set, and which of it changed."""

from __future__ import annotations

from pathlib import Path

from seqpack.options.data import InputOptions, LengthOptions, PackOptions, TextOptions, WriteOptions
from seqpack.pipeline.run import Run
from seqpack.pipeline.settings import differences, plain_value


def test_differences_name_what_changed():
    before = {"a": 1, "gone": True, "text": "x\ny\n", "packing": {"seed": 1, "align": 2}, "same": [1]}
    now = {"a": 2, "text": "x\nz\n", "packing": {"seed": 2, "align": 2}, "same": [1], "new_one": None}
    assert differences(before, now) == [
        "a: 1 -> 2",
        "text (text differs at line 2)",
        "packing: seed: 1 -> 2",
        "new one: not given -> none",
        "gone: True -> not given",
    ]
    assert differences(before, dict(reversed(before.items()))) == []


def test_a_longer_text_differs_behind_the_shorter_one():
    assert differences({"t": "x\n"}, {"t": "x\ny\n"}) == ["t (text differs at line 2)"]


def test_a_run_can_be_written_down_and_read_back():
    run = Run(
        InputOptions(input=[Path("a.jsonl"), Path("b")], map_keys='{"query": null}'),
        TextOptions(tokenizer=Path("t"), train_on="last"),
        LengthOptions(seq_length=64, max_drop=0.25),
        PackOptions(neat_pack=True, align=8),
        WriteOptions(output_prefix=Path("out/x")),
        resolved="seed: 1\n",
    )
    again = Run.from_json(run.to_json(), place=Path("run.json"))
    assert again.only_merge and not run.only_merge
    for name in ("input", "text", "length", "pack", "write", "compat", "resolved"):
        assert getattr(again, name) == getattr(run, name)


def test_plain_values_are_json():
    assert plain_value({"path": Path("a"), "pair": (1, None)}) == {"path": "a", "pair": [1, None]}
