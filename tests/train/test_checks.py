from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.io.packed import PackedDataset
from seqpack.options.train import TrainDataOptions
from seqpack.text.tokenizer import tokenizer_fingerprint
from seqpack.train.checks import check_output, resolve_isolation, resolve_row_length, resolve_tokenizer

from .conftest import VOCAB_SIZE, WriteDataset, write_tokenizer

ISOLATION_FLAGS = ["neat_pack", "reset_position_ids", "reset_attention_mask"]


def flags(**given: Any) -> TrainDataOptions:
    return TrainDataOptions(data_path=["unused"], **given)


@pytest.fixture(params=["apart", "causal", "unpacked"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifest(kind: str, write_dataset: WriteDataset) -> Manifest:
    mask = {"apart": MaskMode.BLOCK_CAUSAL, "causal": MaskMode.CAUSAL, "unpacked": None}[kind]
    seq_length = None if mask is None else 8
    return PackedDataset.open(write_dataset([[3, 2]] if mask else [[3]], seq_length=seq_length, mask=mask)).manifest


def test_flags_not_given_are_read_from_the_data(manifest: Manifest, kind: str) -> None:
    isolation = resolve_isolation(manifest, flags())
    assert isolation.mask is (MaskMode.CAUSAL if kind == "causal" else MaskMode.BLOCK_CAUSAL)
    assert isolation.note


@pytest.mark.parametrize("flag", ISOLATION_FLAGS)
@pytest.mark.parametrize("value", [True, False])
def test_each_flag_must_agree_with_the_data(manifest: Manifest, kind: str, flag: str, value: bool) -> None:
    options = flags(**{flag: value})
    if value == (kind == "apart"):
        assert resolve_isolation(manifest, options).mask is resolve_isolation(manifest, flags()).mask
        return
    with pytest.raises(ConfigError, match=f"--{'' if value else 'no-'}{flag.replace('_', '-')}") as raised:
        resolve_isolation(manifest, options)
    assert raised.value.code == "SP203"
    assert "seqpack pack" in raised.value.help


def test_flags_that_contradict_each_other(manifest: Manifest) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_isolation(manifest, flags(neat_pack=True, reset_position_ids=False))
    assert raised.value.code == "SP203"


def test_padding_is_for_unpacked_rows(manifest: Manifest, kind: str) -> None:
    assert resolve_row_length(manifest, flags(), 8) is None
    options = flags(pad_to="seq-length", seq_length=8)
    if kind == "unpacked":
        assert resolve_row_length(manifest, options, 8) == 8
        return
    with pytest.raises(ConfigError, match="unpacked") as raised:
        resolve_row_length(manifest, options, 8)
    assert raised.value.code == "SP208"


@pytest.mark.parametrize("seq_length", [None, 7])
def test_a_row_length_that_is_missing_or_too_small(write_dataset: WriteDataset, seq_length: int | None) -> None:
    manifest = PackedDataset.open(write_dataset([[8]], mask=None)).manifest
    with pytest.raises(ConfigError, match="--seq-length 8 or more") as raised:
        resolve_row_length(manifest, flags(pad_to="seq-length", seq_length=seq_length), 8)
    assert raised.value.code == "SP208"


def test_seq_length_of_packs_is_checked(write_dataset: WriteDataset) -> None:
    manifest = PackedDataset.open(write_dataset([[3, 2]], seq_length=8)).manifest
    assert resolve_row_length(manifest, flags(seq_length=8), 8) is None
    with pytest.raises(ConfigError, match="the packs have 8 tokens") as raised:
        resolve_row_length(manifest, flags(seq_length=16), 8)
    assert raised.value.code == "SP208"


class TestTokenizer:
    @pytest.fixture
    def record(self, tokenizer_dir: Path) -> TokenizerRecord:
        return TokenizerRecord(str(tokenizer_dir), tokenizer_fingerprint(tokenizer_dir), VOCAB_SIZE, 1, 0)

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        return write_tokenizer(tmp_path / "other", VOCAB_SIZE + 1)

    @pytest.fixture
    def same(self, tmp_path: Path) -> Path:
        return write_tokenizer(tmp_path / "same", VOCAB_SIZE)

    def test_that_of_the_data_is_used_last(self, record: TokenizerRecord, tokenizer_dir: Path, same: Path) -> None:
        assert resolve_tokenizer(record, None, None, random_weights=False) == tokenizer_dir
        assert resolve_tokenizer(record, None, same, random_weights=False) == same
        assert resolve_tokenizer(record, tokenizer_dir, same, random_weights=False) == tokenizer_dir

    def test_that_of_the_data_may_be_gone(self, record: TokenizerRecord, tokenizer_dir: Path) -> None:
        (tokenizer_dir / "tokenizer.json").unlink()
        assert resolve_tokenizer(record, None, None, random_weights=True) is None

    @pytest.mark.parametrize("flag", ["--tokenizer", "--model"])
    def test_another_one_is_refused(self, record: TokenizerRecord, other: Path, flag: str) -> None:
        tokenizer, model = (other, None) if flag == "--tokenizer" else (None, other)
        with pytest.raises(ConfigError, match=flag) as raised:
            resolve_tokenizer(record, tokenizer, model, random_weights=False)
        assert raised.value.code == "SP302"
        assert str(other) in str(raised.value)
        assert record.path in str(raised.value)

    def test_tokenizer_does_not_excuse_a_model_of_another(
        self, record: TokenizerRecord, other: Path, same: Path
    ) -> None:
        with pytest.raises(ConfigError, match="--model"):
            resolve_tokenizer(record, same, other, random_weights=False)
        assert resolve_tokenizer(record, same, other, random_weights=True) == same


@pytest.mark.parametrize("name", ["model", "metrics.jsonl"])
def test_an_older_run_is_kept(tmp_path: Path, name: str) -> None:
    check_output(tmp_path, overwrite=False)
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="--overwrite") as raised:
        check_output(tmp_path, overwrite=False)
    assert raised.value.code == "SP004"
    check_output(tmp_path, overwrite=True)
