"""Rows in groups: none lost, none twice, none cut; and the packs made of them are those groups."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError, DataLossError
from seqpack.options.data import InputOptions, LengthOptions, StrategyOptions, TextOptions, WriteOptions
from seqpack.pipeline.grouping import Grouped, group_rows
from tests.pipeline.conftest import Runs, samples, take, whole_strategies

NAMES = whole_strategies()


def group(runs: Runs, file: Path, name: str = "groups.jsonl", **options: object) -> Grouped:
    read = take(InputOptions, options, input=[file])
    text = take(TextOptions, options | {"tokenizer": runs.tokenizer})
    length = take(LengthOptions, {"on_overlong": "error"} | options)
    write = take(WriteOptions, options, output_prefix=runs.folder / name)
    return group_rows(read, text, length, take(StrategyOptions, options), write, workers=options.get("workers"))


def lines(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ROWS = st.lists(st.tuples(st.sampled_from("aéß"), st.integers(1, 60)), min_size=1, max_size=14)


@settings(max_examples=12)
@given(rows=ROWS, strategy=st.sampled_from(NAMES), seed=st.integers(0, 3))
def test_every_row_is_in_one_group_and_groups_become_packs(tmp_path_factory, tokenizer_dir, rows, strategy, seed):
    folder = tmp_path_factory.mktemp("groups")
    runs = Runs(folder / "sets", tokenizer_dir)
    data = [{"instruction": f"{text}\n", "output": " water" * n, "more": [n]} for text, n in rows]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    made = group(runs, file, seq_length=128, strategy=strategy, seed=seed)
    groups = lines(made.path)
    assert Counter(map(repr, (row for group in groups for row in group))) == Counter(map(repr, data))
    assert made.num_rows == made.ledger.kept.samples == len(rows)
    packed = runs.preprocess(made.path, "grouped", pregrouped=True, neat_pack=True, seq_length=128)
    direct = runs.preprocess(file, "direct", neat_pack=True, seq_length=128, strategy=strategy, seed=seed)
    assert packed.manifest.num_rows == direct.manifest.num_rows == len(groups) == made.layout.rows
    assert packed.manifest.strategy == "pregrouped"
    grouped, plain = runs.open("grouped"), runs.open("direct")
    for row in range(len(grouped)):
        assert np.array_equal(grouped[row].input_ids, plain[row].input_ids), "the same packs in the same order"
    assert grouped.pieces.line.tolist() == [n for n, group in enumerate(groups, 1) for _ in group]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same(runs, alpaca, monkeypatch, workers):
    monkeypatch.setattr("seqpack.io.shards.SHARD_BYTES", 1000)
    made = group(runs, alpaca, f"{workers}.jsonl", seq_length=300, workers=workers)
    assert made.path.read_bytes() == group(runs, alpaca, seq_length=300, workers=1).path.read_bytes()
    assert not list(runs.folder.glob(".*")), "nothing is left beside the result"


def test_other_kinds_of_files(runs, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"instruction": f"Say {n}", "output": "x" * n} for n in range(1, 9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("instruction,output\n" + "".join(f"Say {n},{'x' * n}\n" for n in range(1, 9)))
    for kind in ("parquet", "json", "csv"):
        groups = lines(group(runs, tmp_path / f"a.{kind}", f"{kind}.jsonl", seq_length=100).path)
        assert sorted((row for group in groups for row in group), key=repr) == sorted(rows, key=repr)


def test_what_is_left_out_is_named(runs, write_jsonl):
    rows = [
        {"instruction": "Hi", "output": "a"},
        {"instruction": "Hi", "output": ""},
        {"instruction": "Hi", "output": " water" * 99},
        {"instruction": "Hi", "output": "a"},
    ]
    file = write_jsonl(rows)
    with pytest.raises(DataError, match=r"data\.jsonl:3: 1\d\d tokens do not fit --seq-length 64") as error:
        group(runs, file, seq_length=64, max_drop=1.0)
    assert error.value.code == "SP108"
    with pytest.raises(DataLossError):
        group(runs, file, seq_length=64, on_overlong="drop")
    assert runs.files() == {}, "nothing was written"
    made = group(runs, file, seq_length=64, on_overlong="drop", max_drop=1.0)
    assert [row for group in lines(made.path) for row in group] == [rows[0], rows[3]], "a copy is kept"
    rejects = [json.loads(line) for line in made.rejects.read_text().splitlines()]
    assert [(reject["key"].rpartition(":")[2], reject["outcome"]) for reject in rejects] == [
        ("2", "rejected"),
        ("3", "dropped"),
    ]
    made.ledger.check()
    assert (made.ledger.read.samples, made.ledger.kept.samples) == (3, 2)


def test_room_for_the_end_token(runs, write_jsonl):
    # qwen ends with <|im_end|>; the end token of the default template of another tokenizer would be one more
    file = write_jsonl([{"instruction": "Hi", "output": "a"}] * 3)
    plain = group(runs, file, seq_length=100)
    ended = group(runs, file, "ended.jsonl", seq_length=100, append_eod=True, prompt_type="empty")
    assert plain.ledger.kept.tokens > 0 and ended.ledger.kept.tokens > 0
    made = runs.preprocess(
        ended.path, "ended", pregrouped=True, pack=True, seq_length=100, append_eod=True, prompt_type="empty"
    )
    assert made.ledger.kept.tokens == ended.ledger.kept.tokens


def test_conversations_are_grouped_too(runs, write_jsonl):
    turns = [(role, turn) for turn in range(3) for role in ("human", "gpt")]
    chats = [
        {"conversations": [{"from": role, "value": f"{role} {n} {turn}"} for role, turn in turns]} for n in range(5)
    ]
    made = group(runs, write_jsonl(chats), seq_length=256)
    assert sorted((row for group in lines(made.path) for row in group), key=repr) == sorted(chats, key=repr)


def test_data_that_change_meanwhile(runs, alpaca, monkeypatch):
    def shorter(*arguments, **options):
        alpaca.write_text("\n".join(alpaca.read_text().splitlines()[:-1]) + "\n")
        return make_plan(*arguments, **options)

    from seqpack.packing.planning import make_plan

    monkeypatch.setattr("seqpack.pipeline.grouping.make_plan", shorter)
    with pytest.raises(DataError, match="changed while they were read"):
        group(runs, alpaca, seq_length=300)
    assert runs.files() == {}


def test_where_groups_are_written(runs, alpaca):
    with pytest.raises(ConfigError, match=r"write -o .*groups\.jsonl"):
        group(runs, alpaca, "groups", seq_length=300)
    group(runs, alpaca, seq_length=300)
    with pytest.raises(ConfigError, match="exists"):
        group(runs, alpaca, seq_length=300)
    group(runs, alpaca, seq_length=400, overwrite=True)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"text": "abc"}], {}, "gives pretraining text"),
        ([[{"instruction": "Hi", "output": "a"}]], {"pregrouped": True}, "--pregrouped would do nothing"),
    ],
)
def test_what_cannot_be_grouped(runs, write_jsonl, rows, options, said):
    with pytest.raises(ConfigError, match=said):
        group(runs, write_jsonl(rows), seq_length=100, **options)


@pytest.fixture
def grouped(write_jsonl) -> Path:
    """Two groups, a row on its own, an empty group, and one with a row that is of no use."""
    a, b, c = ({"instruction": text, "output": f" {text}" * 9} for text in ("one", "two", "three"))
    return write_jsonl([[a, b], [c], a, [], [b, {"instruction": "x", "output": ""}, c], [[a]]])


def test_groups_are_packs_in_their_order(runs, grouped):
    made = runs.preprocess(grouped, seq_length=128, neat_pack=True, pregrouped=True, max_drop=1.0)
    dataset = runs.open("out")
    assert dataset.num_samples.tolist() == [2, 1, 1, 2] and dataset.pieces.line.tolist() == [1, 1, 2, 3, 5, 5]
    rejects = [json.loads(line) for line in made.paths.rejects.read_text().splitlines()]
    assert [reject["key"].rpartition(":")[2] for reject in rejects] == ["4", "5[2]", "6[1]"]
    assert made.manifest.recipe["pregrouped"] is True
    plain = runs.preprocess(grouped, "seen", seq_length=128, pack=True, pregrouped=True, max_drop=1.0)
    assert plain.manifest.mask == "causal"
    assert samples(runs.open("seen")) == samples(dataset)


def test_a_group_that_does_not_fit(runs, grouped):
    for choice in ("truncate", "error"):
        options = {"seq_length": 60, "neat_pack": True, "pregrouped": True, "max_drop": 1.0, "on_overlong": choice}
        with pytest.raises(DataError, match=r"data\.jsonl:1: the 2 samples of this row have \d+ tokens") as error:
            runs.preprocess(grouped, **options)
        assert error.value.code == "SP108"
    made = runs.preprocess(grouped, **options | {"on_overlong": "drop"})
    dataset = runs.open("out")
    assert dataset.pieces.line.tolist() == [1, 2, 3, 5] and dataset.pieces.sample.tolist() == [0, 2, 3, 4]
    made.ledger.check()
    assert made.ledger.dropped["no room left in its group"].samples == 2
    assert sum("no room" in line for line in made.paths.rejects.read_text().splitlines()) == 2
    with pytest.raises(DataLossError):
        runs.preprocess(grouped, "again", **options | {"on_overlong": "drop", "max_drop": 0.5})


def test_without_the_flag_lists_are_explained(runs, grouped, write_jsonl):
    with pytest.raises(DataLossError, match="--pregrouped reads lists of samples"):
        runs.preprocess(grouped, seq_length=64, neat_pack=True)
    with pytest.raises(DataError, match="are read with --pregrouped"):
        runs.preprocess(write_jsonl([[{"instruction": "Hi", "output": "a"}]]), seq_length=64, neat_pack=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--pregrouped would do nothing"),
        ({"neat_pack": True, "seq_length": 64, "strategy": NAMES[-1]}, "--strategy would do nothing"),
        ({"neat_pack": True, "seq_length": 64, "compat": "mindspeed"}, "packs by rules of its own"),
    ],
)
def test_flags_that_groups_leave_no_room_for(runs, grouped, options, said):
    with pytest.raises(ConfigError, match=said):
        runs.preprocess(grouped, pregrouped=True, **options)


def test_pretraining_text_has_no_groups(runs, write_jsonl):
    with pytest.raises(ConfigError, match="--pregrouped would do nothing"):
        runs.preprocess(write_jsonl([[{"text": "a"}]]), pregrouped=True, pack=True, seq_length=8)


def test_stats_of_groups(runs, grouped):
    found = runs.stats(grouped, pregrouped=True, seq_length=128)
    own = found.layouts[0]
    assert (own.name, own.rows, own.note) == ("as grouped", 4, "")
    short = runs.stats(grouped, pregrouped=True, seq_length=60).layouts[0]
    assert short.rows == 0 and "2 of 4 groups have more than 60 tokens" in short.note
