"""Every token of a pack leads back to a row of the raw data, and every row to its packs, or to the reason why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError, FormatError
from seqpack.io.sets import DocumentSet, open_set
from seqpack.pipeline.shown_documents import show_document
from seqpack.pipeline.trace import find_text, trace
from tests.pipeline.conftest import Runs, whole_strategies

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=12)
STRATEGIES = st.sampled_from(whole_strategies())


@settings(max_examples=12)
@given(lengths=LENGTHS, strategy=STRATEGIES, again=STRATEGIES, seed=st.integers(0, 3))
def test_every_token_has_its_row(tmp_path_factory, tokenizer_dir, lengths, strategy, again, seed):
    """The tokens of the unpacked set, where line and row are one, are found in the packs where ``trace`` says."""
    folder = tmp_path_factory.mktemp("sets")
    file = folder / "rows.jsonl"
    rows = [{"instruction": f"Say {n}.", "output": " water" * length} for n, length in enumerate(lengths)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = Runs(folder, tokenizer_dir)
    runs.preprocess(file, "plain")
    runs.preprocess(file, "packed", seq_length=256, pack=True, strategy=strategy, seed=seed)
    runs.repack("packed", "again", seq_length=300, strategy=again, seed=seed)
    plain = runs.open("plain")
    for name in ("packed", "again"):
        dataset = runs.open(name)
        owner = [np.zeros(len(dataset[row]), np.int64) for row in range(len(dataset))]
        for line in range(1, len(lengths) + 1):
            ids = []
            for place in sorted(trace(dataset, f"rows.jsonl:{line}").places, key=lambda place: place.row):
                assert (owner[place.row][place.first : place.last + 1] == 0).all(), "no token has two rows"
                owner[place.row][place.first : place.last + 1] = line
                ids += dataset[place.row].input_ids[place.first : place.last + 1].tolist()
            assert ids == plain[line - 1].input_ids.tolist()
        for row, lines in enumerate(owner):
            sequence = dataset[row]
            real = len(sequence) - sequence.num_padding
            assert (lines[:real] > 0).all() and (lines[real:] == 0).all(), "no token without a row"


@pytest.fixture
def mixed(runs, write_jsonl):
    """Four rows: one kept, one rejected, one truncated, one blank line, one kept with another text."""
    rows = [
        {"instruction": "Hi", "output": "grape"},
        {"instruction": "Hi", "output": ""},
        {"instruction": "Hi", "output": " water" * 200},
        "",
        {"instruction": "Hi", "output": "one grape\nand  two grapes"},
    ]
    runs.preprocess(write_jsonl(rows), "mixed", seq_length=100, neat_pack=True, max_drop=1.0)
    return runs.open("mixed")


def test_what_happened_to_a_row(mixed):
    assert trace(mixed, "data.jsonl:1").fates == ()
    rejected = trace(mixed, "data.jsonl:2")
    assert rejected.places == () and [fate.outcome for fate in rejected.fates] == ["rejected"]
    assert "output" in rejected.fates[0].reason
    truncated = trace(mixed, "data.jsonl:3")
    (place,), (fate,) = truncated.places, truncated.fates
    assert fate.outcome == "truncated" and place.num_tokens + fate.tokens > 200 and place.num_tokens <= 100
    whole = mixed.pieces.sources[0]
    assert trace(mixed, f"{whole}:5").places == trace(mixed, "data.jsonl:5").places


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data.jsonl:4", "comes from that row"),
        ("data.jsonl:99", "comes from that row"),
        ("dta.jsonl:1", "did you mean 'data.jsonl'"),
        ("data.jsonl", "is not FILE:LINE"),
        ("data.jsonl:0", "is not FILE:LINE"),
        ("data.jsonl:x", "is not FILE:LINE"),
    ],
)
def test_a_row_that_is_not_there(mixed, key, said):
    with pytest.raises(ConfigError, match=said) as error:
        trace(mixed, key)
    assert error.value.code == "SP112"


def test_an_element_of_a_row_is_asked_for_as_rejects_name_it(runs, write_jsonl):
    group = [{"instruction": "Hi", "output": "a"}, {"instruction": "Hi", "output": ""}]
    runs.preprocess(write_jsonl([group]), "set", seq_length=64, pregrouped=True, pack=True, max_drop=1.0)
    (line,) = runs.open("set").paths.rejects.read_text().splitlines()
    traced = trace(runs.open("set"), json.loads(line)["key"])
    assert len(traced.places) == 1 and [fate.outcome for fate in traced.fates] == ["rejected"]


def test_a_name_that_fits_two_files(runs, write_jsonl):
    files = [write_jsonl([{"instruction": "Hi", "output": "a"}], f"{folder}/d.jsonl") for folder in "ab"]
    runs.preprocess(files, "two")
    dataset = runs.open("two")
    with pytest.raises(ConfigError, match="may be any of"):
        trace(dataset, "d.jsonl:1")
    assert [trace(dataset, f"{folder}/d.jsonl:1").places[0].row for folder in "ab"] == [0, 1]


def test_the_tokens_of_a_row_alone(mixed):
    (place,) = trace(mixed, "data.jsonl:5", with_tokens=True).places
    assert [token.index for token in place.tokens] == list(range(place.first, place.last + 1))
    assert {token.segment for token in place.tokens} == {place.number}


def test_a_text_is_found_where_it_is(mixed, monkeypatch):
    monkeypatch.setattr("seqpack.pipeline.trace.TOKENS_PER_BATCH", 1)  # a batch for each sample
    found = find_text(mixed, "grape", limit=10)
    assert found.num_samples == 2 and {match.key.rpartition(":")[2] for match in found.matches} == {"1", "5"}
    for match in found.matches:
        shown = trace(mixed, match.key, with_tokens=True).places[0]
        assert (match.row, match.number) == (shown.row, shown.number)
        rest = "".join(token.text for token in shown.tokens if token.index >= match.token)
        assert "grape" in rest[:12]
        later = "".join(token.text for token in shown.tokens if token.index > match.token)
        assert rest.count("grape") > later.count("grape") or "grape" not in later[:5]
    (other,) = [match for match in found.matches if match.key.endswith(":5")]
    assert other.before.endswith("one ") and other.after.startswith(" and two")
    assert found.num_rows == len({match.row for match in found.matches})
    assert len(find_text(mixed, "grape", limit=1).matches) == 1
    assert find_text(mixed, "grape", limit=1).num_samples == 2
    assert find_text(mixed, "<|im_end|>", limit=1).num_samples == 3, "special tokens count"
    assert find_text(mixed, "not there", limit=1).num_rows == 0


def test_what_a_terminal_would_obey_is_not_shown(runs, write_jsonl):
    runs.preprocess(write_jsonl([{"instruction": "Hi", "output": "red \x1b[31m\r\ngrape\x9b2J"}]), "set")
    (match,) = find_text(runs.open("set"), "grape", limit=1).matches
    (place,) = trace(runs.open("set"), "data.jsonl:1").places
    for text in (match.before, match.after, place.text):
        assert text.isprintable() and text


def test_without_the_tokenizer_nothing_can_be_found(runs, alpaca, tokenizer_dir, tmp_path):
    import shutil

    moved = shutil.copytree(tokenizer_dir, tmp_path / "was_here")
    runs.preprocess(alpaca, tokenizer=moved)
    shutil.rmtree(moved)
    dataset = runs.open("out")
    with pytest.raises(DataError, match="--find needs the tokenizer"):
        find_text(dataset, "water", limit=1)
    assert find_text(dataset, "water", limit=1, tokenizer_dir=tokenizer_dir).num_samples == 40
    assert "was_here" in trace(dataset, "alpaca.jsonl:1").tokenizer_note
    assert trace(dataset, "alpaca.jsonl:1", tokenizer_dir=tokenizer_dir).tokenizer_note == ""


def test_documents_are_shown_too(runs, write_jsonl):
    file = write_jsonl([{"text": "one grape"}, {"text": "two"}])
    runs.preprocess(file, "text", handler="GeneralPretrainHandler")
    dataset = open_set(runs.folder / "text")
    assert isinstance(dataset, DocumentSet)
    shown = show_document(dataset, 0, with_tokens=True)
    (document,) = shown.documents
    assert (shown.num_rows, document.key, document.text) == (2, "text", "one grape")
    assert "".join(token.text for token in document.tokens) == "one grape"
    assert [token.target for token in document.tokens] == [*[t.token_id for t in document.tokens][1:], None]
    with pytest.raises(ConfigError, match="documents 0 to 1"):
        show_document(dataset, 2)


def test_other_kinds_of_sets_are_refused(runs, alpaca):
    result = runs.preprocess(alpaca)
    path = result.paths.manifest
    path.write_text(path.read_text().replace('"kind": "sft"', '"kind": "pairwise"'))
    with pytest.raises(FormatError, match="of kind 'pairwise'") as error:
        open_set(runs.folder / "out")
    assert error.value.code == "SP141"
