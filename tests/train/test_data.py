"""Everything --data-path can name, trained on; and what the header says is what happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.ledger import Ledger
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.io.indexed import IndexedWriter
from seqpack.io.manifest import Manifest, TextRecord, TokenizerRecord
from seqpack.io.packed import PackedDataset, PretrainPaths, file_records
from seqpack.io.pai import write_pai
from seqpack.options.train import TrainDataOptions
from seqpack.text.tokenizer import tokenizer_fingerprint
from seqpack.train.data import open_data, parse_data_path
from seqpack.train.run import execute

from .conftest import VOCAB_SIZE, WriteDataset
from .test_run import PACKS, plan

GOLDEN = Path(__file__).parents[1] / "golden" / "mindspeed"
DOCUMENTS = [5, 9, 3, 14, 2, 7, 6]


def flags(*paths: object, **given: Any) -> TrainDataOptions:
    return TrainDataOptions(data_path=[str(path) for path in paths], **given)


def write_text(folder: Path, tokenizer_dir: Path, *, append_eod: bool | None) -> Path:
    """A pretraining set; ``append_eod=None`` leaves the manifest out, as Megatron does."""
    folder.mkdir()
    paths = PretrainPaths(folder / "text", ("text",))
    with IndexedWriter(paths.column("text")) as writer:
        for number, length in enumerate(DOCUMENTS):
            tokens = np.random.default_rng(number).integers(2, VOCAB_SIZE, length)
            tokens[-1] = 1
            writer.append(tokens, [length])
    if append_eod is None:
        return paths.column("text")
    paths.rejects.write_text("")
    paths.resolved.write_text("")
    record = TokenizerRecord(str(tokenizer_dir), tokenizer_fingerprint(tokenizer_dir), VOCAB_SIZE, 1, 0)
    Manifest(
        packed=False,
        seq_length=None,
        strategy=None,
        mask=None,
        seed=0,
        num_rows=len(DOCUMENTS),
        num_samples=len(DOCUMENTS),
        ledger=Ledger(),
        tokenizer=record,
        recipe={"append_eod": append_eod},
        inputs={},
        files=file_records(paths),
        seqpack_version="0",
        kind="pretrain",
        texts={"text": TextRecord(len(DOCUMENTS), 0, sum(DOCUMENTS))},
    ).write(paths.manifest)
    return paths.prefix


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"epochs": 2}, 10),
        ({"epochs": 1.5, "global_batch_size": 3}, 8),
        ({"train_iters": 3, "global_batch_size": 4, "micro_batch_size": 2}, 12),
        ({"train_samples": 7, "global_batch_size": 4}, 7),
        ({"epochs": 1, "padded_samples": True, "global_batch_size": 4, "shuffle": False}, 8),
        ({"epochs": 2, "split": "60,40"}, 6),
    ],
)
def test_the_header_says_what_happens(
    write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any], taken: int
) -> None:
    prepared = plan(write_dataset(PACKS, seq_length=10), tmp_path / "run", **given)
    summary, result = prepared.summary(), execute(prepared)
    assert (summary.num_steps, summary.num_tokens, summary.num_targets) == (
        result.num_steps,
        result.num_tokens,
        result.num_targets,
    )
    assert prepared.schedule.num_rows == taken
    assert summary.epochs == prepared.schedule.epochs


def test_several_sets(write_dataset: WriteDataset, tmp_path: Path) -> None:
    first, second = write_dataset(PACKS, seq_length=10), write_dataset([[8, 2], [5]], seq_length=10)
    data = open_data(flags(first, second))
    assert len(data) == 7
    assert np.array_equal(data[6].input_ids, PackedDataset.open(second)[1].input_ids)
    assert data.describe(6) == "row 1 (made.jsonl:3)"
    prepared = plan(first, tmp_path / "run", data_path=[str(first), str(second)], epochs=1)
    assert execute(prepared).num_tokens == prepared.summary().num_tokens == int(data.num_tokens.sum())


def test_weights_are_shares_of_the_rows(write_dataset: WriteDataset, tmp_path: Path) -> None:
    first, second = write_dataset(PACKS, seq_length=10), write_dataset([[8, 2], [5]], seq_length=10)
    paths = ["3", str(first), "1", str(second)]
    prepared = plan(first, tmp_path / "run", data_path=paths, train_iters=20, global_batch_size=4)
    counts = prepared.schedule.row_counts()
    assert counts.sum() == 80
    assert abs(counts[5:].sum() - 20) <= 15  # 20 on average; shares are exact over 8,192 rows
    assert counts[5:].sum() > 0


@pytest.mark.parametrize("words", [["0.5", "a", "b"], ["a", "0.5"], ["0.5", "a", "b", "c"], ["0", "a", "1", "b"]])
def test_weights_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--data-path") as raised:
        parse_data_path(words)
    assert raised.value.code == "SP208"


def test_sets_that_do_not_fit_together(write_dataset: WriteDataset) -> None:
    first = write_dataset(PACKS, seq_length=10)
    for other, what in (
        (write_dataset(PACKS, seq_length=12), "sequence length"),
        (write_dataset(PACKS, seq_length=10, mask=MaskMode.CAUSAL), "mask"),
    ):
        with pytest.raises(ConfigError, match=what) as raised:
            open_data(flags(first, other))
        assert raised.value.code == "SP203"


def test_packs_of_mindspeed_are_trained_in_place(tmp_path: Path) -> None:
    source = GOLDEN / "neat_pack_qwen_seq512"
    shutil.copytree(source, tmp_path / "theirs")
    prepared = plan(tmp_path / "theirs" / "data", tmp_path / "run", train_iters=1, global_batch_size=1, neat_pack=True)
    notes = " / ".join(prepared.summary().notes)
    assert "boundaries of" in notes and "could not be checked" in notes
    assert prepared.isolation.mask is MaskMode.BLOCK_CAUSAL
    assert execute(prepared).num_targets == prepared.summary().num_targets


def test_their_packs_without_neat_pack_cannot_be_told_apart(tmp_path: Path) -> None:
    for name in ("input_ids", "labels", "attention_mask"):
        with IndexedWriter(tmp_path / f"theirs_packed_{name}_document") as writer:
            writer.append(np.ones(12), [6, 6])
    assert plan(tmp_path / "theirs", tmp_path / "run").isolation.mask is MaskMode.CAUSAL
    with pytest.raises(ConfigError, match="packed so that samples of a pack see each other") as raised:
        plan(tmp_path / "theirs", tmp_path / "run", reset_attention_mask=True)
    assert raised.value.code == "SP203"


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing") as raised:
        open_data(flags(tmp_path / "nothing"))
    assert raised.value.code == "SP106"


def test_packs_of_pai(tmp_path: Path) -> None:
    ids = np.array([5, 6, 7, 8, 9, 0], np.int32)
    labels = np.where(ids > 0, ids, IGNORE_INDEX).astype(np.int32)
    write_pai([PackedSequence(ids, labels, np.array([0, 2, 5, 6], np.int32), 1)], tmp_path / "pai")
    for prefix in (tmp_path / "pai", tmp_path / "pai_text_document"):
        data = open_data(flags(prefix))
        assert (data.manifest.kind, data.num_targets.tolist(), data.loss_units("sample").tolist()) == ("sft", [3], [2])


class TestText:
    def test_end_tokens_and_isolation_go_together(self, tmp_path: Path, tokenizer_dir: Path) -> None:
        prefix = write_text(tmp_path / "a", tokenizer_dir, append_eod=True)
        for given in ({}, {"reset_attention_mask": True, "reset_position_ids": True}, {"eod_mask_loss": True}):
            prepared = plan(prefix, tmp_path / "run", seq_length=8, epochs=1, **given)  # type: ignore[arg-type]
            assert prepared.isolation.mask is MaskMode.BLOCK_CAUSAL
        result = execute(prepared)
        assert result.num_targets == sum(DOCUMENTS) - len(DOCUMENTS) == prepared.summary().num_targets

    @pytest.mark.parametrize(
        ("append_eod", "given"),
        [
            (False, {"reset_attention_mask": True}),
            (False, {"reset_position_ids": True}),
            (True, {"reset_attention_mask": False}),
        ],
    )
    def test_one_without_the_other(
        self, tmp_path: Path, tokenizer_dir: Path, append_eod: bool, given: dict[str, Any]
    ) -> None:
        prefix = write_text(tmp_path / "a", tokenizer_dir, append_eod=append_eod)
        with pytest.raises(ConfigError, match=r"--append-eod|no end token") as raised:
            open_data(flags(prefix, seq_length=8, **given))
        assert raised.value.code == "SP211"
        assert "append-eod" in raised.value.help

    def test_without_a_manifest_the_flags_decide(self, tmp_path: Path, tokenizer_dir: Path) -> None:
        pair = write_text(tmp_path / "a", tokenizer_dir, append_eod=None)
        assert open_data(flags(pair, seq_length=8)).manifest.mask is MaskMode.CAUSAL
        apart = open_data(flags(pair, seq_length=8, reset_attention_mask=True))
        assert apart.manifest.mask is MaskMode.BLOCK_CAUSAL
        assert any("7 documents, their ends from the document index" in note for note in apart.notes)

    def test_a_pair_of_a_set_of_ours_keeps_its_manifest(self, tmp_path: Path, tokenizer_dir: Path) -> None:
        prefix = write_text(tmp_path / "a", tokenizer_dir, append_eod=True)
        data = open_data(flags(prefix.with_name("text_text_document"), seq_length=8))
        assert data.manifest.tokenizer.fingerprint
        assert data.manifest.mask is MaskMode.BLOCK_CAUSAL

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({}, "--seq-length"),
            ({"seq_length": 8, "stage": "sft"}, "--stage sft"),
            ({"seq_length": 8, "eod_mask_loss": False}, "--no-eod-mask-loss"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, tokenizer_dir: Path, given: dict[str, Any], named: str) -> None:
        prefix = write_text(tmp_path / "a", tokenizer_dir, append_eod=True)
        with pytest.raises(ConfigError) as raised:
            open_data(flags(prefix, **given))
        assert named in f"{raised.value.message} {raised.value.help}"


def test_flags_for_the_other_stage(write_dataset: WriteDataset) -> None:
    data = write_dataset(PACKS)
    assert open_data(flags(data, stage="sft"))
    for given in ({"stage": "pretrain"}, {"eod_mask_loss": True}):
        with pytest.raises(ConfigError) as raised:
            open_data(flags(data, **given))
        assert raised.value.code == "SP208"
