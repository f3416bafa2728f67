"""Raw rows to a set on disk: what is written, what is counted, and that an error leaves nothing."""

from __future__ import annotations

import errno
import functools
import json
import os
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError, DataLossError, DeviceError, PluginError
from seqpack.core.types import IGNORE_INDEX, MaskMode, Message, Sample
from seqpack.handlers.alpaca import AlpacaHandler
from seqpack.hooks import host
from seqpack.hooks.component import Component
from seqpack.hooks.specs import hookimpl
from seqpack.io.indexed import IndexedDataset
from seqpack.io.manifest import FileRecord, Manifest
from seqpack.io.packed import PackedDataset
from seqpack.io.pai import read_pai
from seqpack.pipeline import materialize, samples
from seqpack.text.tokenizer import Tokenizer, tokenizer_fingerprint

from .conftest import Runs
from .conftest import samples as samples_of

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
MODES = [{}, {"pack": True, "seq_length": 128}, {"neat_pack": True, "seq_length": 128}]
MODE_IDS = ["plain", "pack", "neat"]


def balance(manifest: Manifest) -> None:
    """in = trained + context + truncated + dropped; + padding = rows x seq_length."""
    ledger = manifest.ledger
    assert ledger.read.tokens == ledger.trained + ledger.context + ledger.truncated.tokens + ledger.all_dropped.tokens
    assert ledger.read.samples == ledger.kept.samples + ledger.all_dropped.samples
    if manifest.packed:
        assert ledger.trained + ledger.context + ledger.padding == manifest.num_rows * manifest.seq_length
    else:
        assert ledger.padding == 0


def losses(runs: Runs, name: str = "out") -> list[dict]:
    return [json.loads(line) for line in runs.open(name).paths.rejects.read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
def test_manifest_and_files_agree(runs, alpaca, mode):
    result = runs.preprocess(alpaca, **mode, resolved="pack: true  # flag\n")
    dataset, manifest = runs.open("out"), result.manifest
    assert dataset.manifest == manifest and len(dataset) == manifest.num_rows
    balance(manifest)
    assert manifest.ledger.kept.tokens == dataset.num_tokens.sum()
    assert manifest.ledger.trained == dataset.num_targets.sum()
    assert manifest.num_samples == dataset.num_samples.sum() == manifest.ledger.kept.samples
    assert manifest.ledger.read.samples == 40
    for path in result.paths.files:
        assert manifest.files[path.name.removeprefix("out")] == FileRecord.of(path)
    assert {*result.paths.files, result.paths.manifest} == set(runs.folder.iterdir())
    assert result.paths.resolved.read_text() == "pack: true  # flag\n"
    assert manifest.inputs == {str(alpaca): input_record(alpaca)}


def input_record(path: Path) -> FileRecord:
    return replace(FileRecord.of(path), modified=path.stat().st_mtime_ns)


FACTS = [
    (False, None, None, None),
    (True, 128, "balanced", MaskMode.CAUSAL),
    (True, 128, "balanced", MaskMode.BLOCK_CAUSAL),
]


@pytest.mark.parametrize(("mode", "facts"), list(zip(MODES, FACTS, strict=True)), ids=MODE_IDS)
def test_the_manifest_says_how_the_set_was_made(runs, alpaca, tokenizer_dir, mode, facts):
    manifest = runs.preprocess(alpaca, seed=7, **mode).manifest
    assert (manifest.packed, manifest.seq_length, manifest.strategy, manifest.mask) == facts
    assert manifest.seed == 7
    assert manifest.tokenizer.fingerprint == tokenizer_fingerprint(tokenizer_dir)
    assert (manifest.tokenizer.vocab_size, manifest.tokenizer.eos_token_id) == (3000, 2)
    assert manifest.recipe["handler"] == "AlpacaStyleInstructionHandler"
    assert manifest.recipe["prompt_type"] == "qwen" and "<|im_start|>" in manifest.recipe["template"]
    assert (manifest.recipe["seq_length"], manifest.recipe["on_overlong"]) == (mode.get("seq_length"), "truncate")


@pytest.mark.parametrize("strategy", ["bfd", "ffd", "balanced", "stream"])
def test_packing_moves_samples_and_changes_none(runs, alpaca, strategy):
    runs.preprocess(alpaca, "plain", seq_length=128)
    runs.preprocess(alpaca, "packed", seq_length=128, neat_pack=True, strategy=strategy)
    plain, packed = runs.open("plain"), runs.open("packed")
    assert samples_of(plain) == samples_of(packed)
    assert len(packed) < len(plain) and (packed.row_lengths == 128).all()
    assert sorted(packed.pieces.sample.tolist()) == list(range(40))
    for piece in range(len(packed.pieces)):
        number = int(packed.pieces.sample[piece])
        assert packed.pieces.key(piece) == f"{alpaca}:{number + 1}"
        assert packed.pieces.length[piece] == plain.row_lengths[number]
        assert packed.pieces.num_targets[piece] == plain.num_targets[number]


def test_pieces_of_cut_samples_are_the_samples(runs, alpaca):
    runs.preprocess(alpaca, "whole")
    made = runs.preprocess(alpaca, "cut", seq_length=48, neat_pack=True, strategy="wrapped")
    whole, cut = runs.open("whole"), runs.open("cut")
    assert cut.pieces.start is not None and len(cut.pieces) > 40
    pieces = cut.pieces
    for piece in range(len(pieces)):
        number, start = int(pieces.sample[piece]), int(pieces.start[piece])
        part = slice(start, start + int(pieces.length[piece]))
        labels = whole[number].labels[part].copy()
        labels[0] = IGNORE_INDEX  # nothing stands before it in its pack that it could be predicted from
        begin = int(cut.piece_starts[piece])
        assert cut.tokens[begin : begin + len(labels)].tolist() == whole[number].input_ids[part].tolist()
        assert cut.labels[begin : begin + len(labels)].tolist() == labels.tolist()
        assert pieces.num_targets[piece] == (labels != IGNORE_INDEX).sum()
    assert made.ledger.truncated.samples == 0 and made.manifest.num_samples == 40
    assert cut.num_targets.sum() == made.ledger.trained < whole.num_targets.sum()
    balance(made.manifest)
    runs.repack("cut", "again", seq_length=64, neat_pack=True)
    assert runs.open("again").num_tokens.sum() == whole.num_tokens.sum()


def test_aligned_samples_begin_at_multiples_and_are_counted(runs, alpaca):
    runs.preprocess(alpaca, "plain", seq_length=128)
    made = runs.preprocess(alpaca, "aligned", seq_length=128, neat_pack=True, align=16)
    plain, aligned = runs.open("plain"), runs.open("aligned")
    assert made.manifest.packing == {"align": 16, "max_docs": None, "pack_window": None, "on_overlong": "truncate"}
    assert made.ledger.padding == 128 * len(aligned) - plain.num_tokens.sum()
    assert [int(row.is_real.sum()) for row in aligned] == aligned.num_tokens.tolist()
    mask = IndexedDataset(made.paths.column("attention_mask"))
    for row, packed in enumerate(aligned):
        assert (packed.cu_seqlens % 16 == 0).all()
        pieces = range(aligned.offsets[row], aligned.offsets[row + 1])
        for number, (piece, start) in enumerate(zip(pieces, packed.cu_seqlens, strict=False), 1):
            sample, length = plain[int(aligned.pieces.sample[piece])], int(aligned.pieces.length[piece])
            assert packed.input_ids[start : start + length].tolist() == sample.input_ids.tolist()
            between = slice(start + length, packed.cu_seqlens[number])
            assert (packed.labels[between] == IGNORE_INDEX).all() and (packed.input_ids[between] == 0).all()
            assert (mask[row][start : packed.cu_seqlens[number]] == number).all()
    runs.repack("aligned", "again", seq_length=128, neat_pack=True)
    assert samples_of(runs.open("again")) == samples_of(plain)


def test_masks_that_contradict_each_other_are_refused(runs, alpaca):
    with pytest.raises(ConfigError, match="different masks"):
        runs.preprocess(alpaca, seq_length=128, neat_pack=True, mask="lower-triangular")
    assert runs.files() == {}


@pytest.mark.parametrize(
    ("mask", "mode"), [("block-causal", MaskMode.BLOCK_CAUSAL), ("lower-triangular", MaskMode.CAUSAL)]
)
def test_a_mask_implies_packing(runs, alpaca, mask, mode):
    manifest = runs.preprocess(alpaca, seq_length=128, mask=mask).manifest
    assert manifest.packed and manifest.mask is mode


def test_limits_are_refused_before_anything_is_read(runs, alpaca):
    with pytest.raises(ConfigError, match="multiple of --align"):
        runs.preprocess(alpaca, seq_length=100, neat_pack=True, align=16)
    with pytest.raises(ConfigError, match="--align 16 puts padding between samples") as caught:
        runs.preprocess(alpaca, seq_length=128, pack=True, align=16)
    assert caught.value.code == "SP031"
    with pytest.raises(ConfigError, match="--on-overlong would do nothing"):
        runs.preprocess(alpaca, seq_length=100, neat_pack=True, strategy="wrapped", on_overlong="drop")


def test_padding_is_the_pad_token_without_label(runs, alpaca):
    runs.preprocess(alpaca, seq_length=128, neat_pack=True)
    padded = [row for row in runs.open("out") if row.num_padding]
    assert padded
    for row in padded:
        assert (row.input_ids[-row.num_padding :] == 0).all()
        assert (row.labels[-row.num_padding :] == IGNORE_INDEX).all()


@pytest.mark.parametrize("mode", MODES[:2], ids=MODE_IDS[:2])
def test_without_neat_packing_the_mask_is_all_ones(runs, alpaca, mode):
    paths = runs.preprocess(alpaca, **mode).paths
    assert set(IndexedDataset(paths.column("attention_mask")).tokens.tolist()) == {1}


def test_labels_are_the_replies(runs, alpaca, tokenizer_dir):
    runs.preprocess(alpaca)
    dataset, tokenizer = runs.open("out"), Tokenizer(tokenizer_dir)
    row = dataset[12]
    assert tokenizer.decode(row.labels[row.labels != IGNORE_INDEX].tolist()) == " water" * 15 + "<|im_end|>"
    assert dataset.num_targets[12] == 16


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
def test_the_same_run_gives_the_same_bytes(runs, alpaca, tmp_path, tokenizer_dir, mode):
    other = Runs(tmp_path / "other", tokenizer_dir)
    runs.preprocess(alpaca, **mode)
    other.preprocess(alpaca, **mode)
    assert runs.files() == other.files()


@pytest.mark.parametrize("constant", [(samples, "SAMPLES_PER_BATCH"), (materialize, "TOKENS_PER_BATCH")])
def test_batches_do_not_show_in_the_result(runs, alpaca, tmp_path, tokenizer_dir, monkeypatch, constant):
    runs.preprocess(alpaca, **MODES[2])
    monkeypatch.setattr(*constant, 3)
    other = Runs(tmp_path / "other", tokenizer_dir)
    other.preprocess(alpaca, **MODES[2])
    assert runs.files() == other.files()


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
def test_engines_do_not_show_in_the_data(runs, alpaca, tmp_path, tokenizer_dir, mode):
    pytest.importorskip("fastokens")
    other = Runs(tmp_path / "other", tokenizer_dir)
    fast = runs.preprocess(alpaca, **mode, tokenizer_engine="fastokens")
    slow = other.preprocess(alpaca, **mode, tokenizer_engine="tokenizers")
    assert fast.engine.label.startswith("fastokens ") and slow.engine.label.startswith("tokenizers ")
    assert fast.manifest.recipe["tokenizer_engine"] == fast.engine.label
    for mine, theirs in zip(fast.paths.files, slow.paths.files, strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


def test_losses_are_listed_in_the_order_of_the_data(runs, write_jsonl, monkeypatch):
    rows = [ROW, ROW | {"output": ""}, ROW | {"output": " water" * 99}, [1], ROW | {"output": " water" * 98}]
    file = write_jsonl(rows)
    runs.preprocess(file, seq_length=64, max_drop=1.0)
    assert [line["key"] for line in losses(runs)] == [f"{file}:{line}" for line in (2, 3, 4, 5)]
    monkeypatch.setattr(samples, "CHARACTERS_PER_BATCH", 1)
    runs.preprocess(file, "small", seq_length=64, max_drop=1.0)
    assert losses(runs, "small") == losses(runs)


def test_seeds_give_other_orders_of_the_same_packs(runs, alpaca):
    rows = []
    for seed in (1, 2):
        runs.preprocess(alpaca, f"s{seed}", neat_pack=True, seq_length=256, seed=seed, strategy="bfd")
        dataset = runs.open(f"s{seed}")
        rows.append([tuple(sorted(part)) for part in np.split(dataset.pieces.sample, dataset.offsets[1:-1])])
    assert rows[0] != rows[1] and sorted(rows[0]) == sorted(rows[1])


def test_several_files_are_one_set(runs, write_jsonl):
    first, second = write_jsonl([ROW], "a.jsonl"), write_jsonl([ROW, ROW], "b.jsonl")
    result = runs.preprocess([first, second])
    pieces = runs.open("out").pieces
    assert [pieces.key(piece) for piece in range(3)] == [f"{first}:1", f"{second}:1", f"{second}:2"]
    assert list(result.manifest.inputs) == [str(first), str(second)]


def test_columns_of_the_data_can_be_named(runs, write_jsonl):
    file = write_jsonl([{"q": "Say hello.", "a": "Hello."}])
    manifest = runs.preprocess(file, map_keys='{"prompt": "q", "query": null, "response": "a"}').manifest
    assert manifest.recipe["map_keys"] == {"prompt": "q", "query": None, "response": "a"}
    runs.preprocess(write_jsonl([ROW], "b.jsonl"), "other")
    assert samples_of(runs.open("out")) == samples_of(runs.open("other"))


def test_truncation_is_counted_and_named(runs, alpaca):
    result = runs.preprocess(alpaca, seq_length=64, neat_pack=True)
    runs.preprocess(alpaca, "whole")
    whole = runs.open("whole").row_lengths
    ledger = result.ledger
    balance(result.manifest)
    assert ledger.truncated.samples == (whole > 64).sum() > 0
    assert ledger.truncated.tokens == np.maximum(whole - 64, 0).sum()
    assert ledger.read.tokens == whole.sum() and not ledger.dropped
    common = {"outcome": "truncated", "reason": "longer than --seq-length"}
    expected = [
        {"key": f"{alpaca}:{number + 1}", **common, "tokens": int(whole[number]) - 64}
        for number in np.flatnonzero(whole > 64)
    ]
    assert losses(runs) == expected


def test_dropping_is_counted_and_named(runs, alpaca):
    result = runs.preprocess(alpaca, seq_length=64, on_overlong="drop", max_drop=1.0)
    runs.preprocess(alpaca, "whole")
    whole = runs.open("whole").row_lengths
    dropped = result.ledger.dropped["longer than --seq-length"]
    balance(result.manifest)
    assert (dropped.samples, dropped.tokens) == ((whole > 64).sum(), whole[whole > 64].sum())
    assert result.ledger.truncated.samples == 0
    assert [line["key"] for line in losses(runs)] == [f"{alpaca}:{number + 1}" for number in np.flatnonzero(whole > 64)]
    assert {line["outcome"] for line in losses(runs)} == {"dropped"}


def test_a_sample_of_exactly_the_length_is_whole(runs, write_jsonl):
    file = write_jsonl([ROW])
    length = int(runs.preprocess(file, "whole").ledger.read.tokens)
    result = runs.preprocess(file, seq_length=length, neat_pack=True)
    assert result.ledger.truncated.samples == result.ledger.padding == 0 and result.manifest.num_rows == 1
    assert runs.preprocess(file, "cut", seq_length=length - 1).ledger.truncated.tokens == 1


def test_too_long_can_be_an_error(runs, alpaca):
    with pytest.raises(DataError, match=r"alpaca\.jsonl:\d+: .* tokens do not fit --seq-length 64") as error:
        runs.preprocess(alpaca, seq_length=64, on_overlong="error")
    assert error.value.code == "SP108"
    assert runs.files() == {}


def test_no_room_for_the_template(runs, write_jsonl):
    with pytest.raises(DataError, match="none of 2 rows can be used: 2 no room for a trained token") as error:
        runs.preprocess(write_jsonl([ROW, ROW]), seq_length=10)
    assert error.value.code == "SP109" and "--seq-length" in error.value.help
    assert runs.files() == {}


MIXED = [ROW, ROW | {"output": ""}, [1], ROW | {"output": 3}, "null", ROW | {"history": 3}, ROW | {"input": "\\ud800"}]


def test_rejected_rows_are_counted_and_named(runs, write_jsonl):
    rows = [row if isinstance(row, str) else json.dumps(row).replace("\\\\ud", "\\ud") for row in MIXED]
    file = write_jsonl(rows)
    result = runs.preprocess(file, max_drop=1.0)
    reasons = [
        (2, "empty 'output'"),
        (3, "a JSON list, not an object (--pregrouped reads lists of samples)"),
        (4, "'output' is int, not text"),
        (5, "a JSON NoneType, not an object"),
        (6, "'history' is not a list of [user, assistant] pairs of text"),
    ]
    mended = "half of a surrogate pair, which is not Unicode, became U+FFFD"
    assert losses(runs) == [
        {"key": f"{file}:{line}", "outcome": outcome, "reason": reason, "tokens": 0}
        for line, outcome, reason in [*((line, "rejected", reason) for line, reason in reasons), (7, "mended", mended)]
    ]
    assert result.ledger.rejected == {reason: 1 for _, reason in reasons}
    assert (result.ledger.read.samples, result.ledger.rows, result.ledger.mended) == (2, 7, 1)
    balance(result.manifest)


def test_too_many_lost_rows_stop_the_run(runs, write_jsonl):
    file = write_jsonl([ROW] * 8 + [ROW | {"output": ""}] * 2)
    with pytest.raises(DataLossError, match=r"20\.0% of 10 rows would be left out.*2 empty 'output'") as error:
        runs.preprocess(file)
    assert (error.value.code, error.value.exit_code) == ("SP102", 4)
    assert runs.files() == {}
    assert runs.preprocess(file, max_drop=0.2).ledger.num_rejected == 2


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no rows in"),
        (["", ""], "no rows in"),
        ([ROW | {"output": ""}] * 3, "none of 3 rows can be used: 3 empty 'output'"),
    ],
    ids=["empty", "blank", "all rejected"],
)
def test_nothing_to_work_with_is_an_error(runs, write_jsonl, mode, rows, problem):
    with pytest.raises(DataError, match=problem) as error:
        runs.preprocess(write_jsonl(rows), max_drop=1.0, **mode)
    assert error.value.code == "SP109"
    assert runs.files() == {}


def test_nothing_fits(runs, alpaca):
    with pytest.raises(DataError, match="none of 40 rows can be used: 40 longer than --seq-length") as error:
        runs.preprocess(alpaca, seq_length=4, on_overlong="drop", max_drop=1.0)
    assert error.value.code == "SP109" and "--seq-length" in error.value.help


def test_other_columns_are_named_at_once(runs, write_jsonl):
    file = write_jsonl([{"question": "Hi", "answer": "Hello"}])
    with pytest.raises(DataError, match=r"data\.jsonl:1: no column .* its columns are: question, answer") as error:
        runs.preprocess(file, handler="alpaca")
    assert error.value.code == "SP110"
    assert runs.files() == {}


def test_a_later_row_without_the_column_is_rejected(runs, write_jsonl):
    result = runs.preprocess(write_jsonl([ROW, {"question": "Hi"}]), max_drop=1.0)
    assert result.ledger.rejected == {"no column 'instruction'": 1}


def test_a_broken_line_stops_the_run(runs, write_jsonl):
    with pytest.raises(DataError, match=r"data\.jsonl:2 is not valid JSON") as error:
        runs.preprocess(write_jsonl([ROW, "{"]))
    assert error.value.code == "SP103"
    assert runs.files() == {}


def test_packing_needs_a_length(runs, alpaca):
    with pytest.raises(ConfigError, match="--seq-length") as error:
        runs.preprocess(alpaca, pack=True)
    assert error.value.code == "SP008"
    assert runs.files() == {}


@pytest.mark.parametrize("option", ["handler", "prompt_type", "strategy"])
def test_an_unknown_component_is_an_error_before_anything_is_done(runs, alpaca, option):
    with pytest.raises(ConfigError, match="'gredy'") as error:
        runs.preprocess(alpaca, **{option: "gredy"})
    assert error.value.code == "SP002"
    assert runs.files() == {}


def test_a_set_that_exists_is_kept(runs, alpaca, write_jsonl):
    runs.preprocess(alpaca)
    before = runs.files()
    with pytest.raises(ConfigError, match=r"made of something else: input .* is not read .* is new") as error:
        runs.preprocess(write_jsonl([ROW]))
    assert error.value.code == "SP301" and "--overwrite" in error.value.help
    assert runs.files() == before


def test_overwriting_replaces_the_whole_set(runs, alpaca, write_jsonl, tmp_path, tokenizer_dir):
    runs.preprocess(alpaca, seq_length=64, neat_pack=True)
    file = write_jsonl([ROW])
    runs.preprocess(file, overwrite=True)
    fresh = Runs(tmp_path / "fresh", tokenizer_dir)
    fresh.preprocess(file)
    assert runs.files() == fresh.files()


def test_a_failed_overwrite_leaves_the_old_set(runs, alpaca, write_jsonl):
    runs.preprocess(alpaca)
    before = runs.files()
    with pytest.raises(DataError):
        runs.preprocess(write_jsonl(["{"]), overwrite=True)
    assert runs.files() == before


@pytest.mark.parametrize("suffix", ["input_ids_document.bin", "index.arrow", "manifest.json"])
def test_a_single_file_in_the_way_counts_as_a_set(runs, alpaca, suffix):
    runs.folder.mkdir()
    (runs.folder / f"out_packed_{suffix}").touch()
    with pytest.raises(ConfigError, match=suffix):
        runs.preprocess(alpaca)
    assert runs.preprocess(alpaca, overwrite=True).manifest.num_rows == 40


@pytest.mark.parametrize("mode", MODES, ids=MODE_IDS)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_full_disk_leaves_nothing(runs, alpaca, monkeypatch, mode, at):
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DeviceError, match="No space left") as error:
        runs.preprocess(alpaca, **mode)
    assert error.value.code == "SP503" and len(calls) == at
    assert runs.files() == {}


def test_an_interrupt_leaves_nothing(runs, alpaca, monkeypatch):
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqpack.pipeline.preprocess.make_plan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.preprocess(alpaca, **MODES[2])
    assert runs.files() == {}


class Failing:
    def __init__(self, columns: object) -> None: ...

    def __call__(self, record: dict) -> list:
        return [record["no such key"]]


class Odd(AlpacaHandler):
    """Alpaca rows whose ``dialogues`` gives what the row says."""

    def dialogues(self, records: list[dict]) -> list:
        found: list = [None] * len(records)
        for record in records:
            if record["says"] == "error":
                raise KeyError("no such key")
            if record["says"] == "fewer":
                found.pop()
            if record["says"] == "list":
                found[0] = [["user"], ["text"]]
        return found


class Louder(AlpacaHandler):
    """A handler of its own, made of another: what that one gives at once is not what this one gives."""

    def __call__(self, record: dict) -> tuple[Sample]:
        (sample,) = super().__call__(record)
        return (Sample(tuple(message._replace(content=message.content.upper()) for message in sample.messages)),)


class Several:
    """Two samples per row."""

    def __init__(self, columns: object) -> None: ...

    def __call__(self, record: dict) -> list:
        return [Sample((Message("user", text), Message("assistant", text))) for text in record["texts"]]


class Overfull:
    def plan(self, lengths, *, seq_length, rng):
        from seqpack.core.plan import PackPlan

        return PackPlan.from_packs([list(range(len(lengths)))], lengths, seq_length=seq_length)


HANDLERS = (Failing, Odd, Louder, Several)


@pytest.fixture
def plugin(monkeypatch):
    """A plugin host that also offers the classes above."""
    module = types.ModuleType("acme")
    module.seqpack_handlers = hookimpl(  # type: ignore[attr-defined]
        lambda: [Component(kind.__name__.lower(), f"{__name__}:{kind.__name__}", "") for kind in HANDLERS]
    )
    module.seqpack_strategies = hookimpl(lambda: [Component("overfull", f"{__name__}:Overfull", "")])  # type: ignore[attr-defined]
    for name in ("seqpack_handlers", "seqpack_strategies"):
        getattr(module, name).__name__ = name
    with_plugin = host.PluginHost([])
    with_plugin._add("acme", module)
    host.plugin_host.cache_clear()
    monkeypatch.setattr(host, "PluginHost", lambda: with_plugin)
    yield
    host.plugin_host.cache_clear()


@pytest.mark.usefixtures("plugin")
def test_a_handler_that_fails_is_named_with_its_row(runs, write_jsonl):
    with pytest.raises(
        DataError, match=r"data\.jsonl:1: handler 'failing' failed with KeyError: 'no such key'"
    ) as error:
        runs.preprocess(write_jsonl([ROW]), handler="failing")
    assert error.value.code == "SP107"
    assert runs.files() == {}


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("says", "words"),
    [("error", "KeyError: 'no such key'"), ("fewer", "ValueError: 1 of 2 records"), ("list", "TypeError: unhashable")],
)
def test_a_handler_that_fails_for_many_rows_at_once_is_named(runs, write_jsonl, says, words):
    with pytest.raises(DataError, match=r"data\.jsonl:1 and on: handler 'odd' failed in dialogues\(\) with ") as error:
        runs.preprocess(write_jsonl([ROW | {"says": ""}, ROW | {"says": says}]), handler="odd")
    assert error.value.code == "SP107" and words in error.value.message
    assert runs.files() == {}


@pytest.mark.usefixtures("plugin")
def test_a_handler_does_not_inherit_what_another_gives_at_once(runs, write_jsonl, tokenizer_dir):
    runs.preprocess(write_jsonl([{"instruction": "question", "output": "answer"}]), handler="louder")
    text = Tokenizer(tokenizer_dir).decode(runs.open("out").tokens.tolist())
    assert "QUESTION" in text and "ANSWER" in text and "question" not in text


@pytest.mark.usefixtures("plugin")
def test_a_row_may_become_several_samples_or_none(runs, write_jsonl):
    file = write_jsonl([{"texts": ["a", "b"]}, {"texts": []}, {"texts": ["c"]}])
    result = runs.preprocess(file, handler="acme:several", neat_pack=True, seq_length=256)
    pieces = runs.open("out").pieces
    assert sorted(pieces.key(piece) for piece in range(3)) == [f"{file}:1", f"{file}:1", f"{file}:3"]
    balance(result.manifest)


@pytest.mark.usefixtures("plugin")
def test_a_wrong_plan_is_not_written(runs, alpaca):
    with pytest.raises(PluginError, match="'overfull' \\(plugin 'acme'\\)") as error:
        runs.preprocess(alpaca, strategy="overfull", neat_pack=True, seq_length=256)
    assert error.value.code == "SP014"
    assert runs.files() == {}


@given(
    counts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), min_size=1, max_size=25),
    seq_length=st.integers(36, 120),
    neat_pack=st.booleans(),
    on_overlong=st.sampled_from(["truncate", "drop"]),
    strategy=st.sampled_from(["bfd", "ffd", "balanced", "wrapped"]),
)
def test_the_ledger_balances_whatever_the_data(
    tmp_path_factory, tokenizer_dir, counts, seq_length, neat_pack, on_overlong, strategy
):
    folder: Path = tmp_path_factory.mktemp("any")
    rows = [{"instruction": " water" * user, "output": " water" * reply} for user, reply in counts]
    file = folder / "x.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"seq_length": seq_length, "on_overlong": on_overlong, "strategy": strategy, "max_drop": 1.0}
    if strategy == "wrapped":  # which cuts by itself
        del options["on_overlong"]
    runs = Runs(folder / "sets", tokenizer_dir)
    run = functools.partial(runs.preprocess, file, pack=True, neat_pack=neat_pack, **options)
    if not any(reply and user for user, reply in counts):
        with pytest.raises(DataError, match="none of") as error:
            run()
        assert error.value.code == "SP109"
        return
    try:
        result = run()
    except DataError:
        lengths = runs.preprocess(file, "whole", max_drop=1.0)
        assert runs.open("whole").row_lengths.min() > seq_length, lengths
        return
    balance(result.manifest)
    dataset = runs.open("out")
    assert result.ledger.rows == len(rows)
    assert (dataset.num_tokens.sum(), dataset.num_targets.sum()) == (result.ledger.kept.tokens, result.ledger.trained)
    assert result.manifest.mask is (MaskMode.BLOCK_CAUSAL if neat_pack else MaskMode.CAUSAL)
    ledger = result.ledger
    assert len(losses(runs)) == ledger.num_rejected + ledger.all_dropped.samples + ledger.truncated.samples


def test_pai_gets_the_same_packs(runs, write_jsonl):
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(1, 30)]
    result = runs.preprocess(write_jsonl(rows), seq_length=128, neat_pack=True, emit="pai")
    ours = PackedDataset.open(result.paths.prefix)
    stored = read_pai(result.paths.prefix)
    assert len(stored) == len(ours) > 1
    runs.repack("out", "again", seq_length=128, neat_pack=True, emit="pai")
    assert [row.cu_seqlens.tolist() for row in read_pai(runs.folder / "again")] == [
        row.cu_seqlens.tolist() for row in stored
    ]
    for row, packed in enumerate(stored):
        assert packed.input_ids.tolist() == ours[row].input_ids.tolist()
        assert packed.labels.tolist() == ours[row].labels.tolist()
        assert packed.cu_seqlens.tolist() == ours[row].cu_seqlens.tolist()


def test_pai_lays_out_packs_only(runs, write_jsonl):
    with pytest.raises(ConfigError, match="--emit pai"):
        runs.preprocess(write_jsonl([{"instruction": "a", "output": "b"}]), emit="pai")
