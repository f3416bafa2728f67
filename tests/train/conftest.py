"""Data sets on disk, written column by column, and a tokenizer to go with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from seqpack.core.ledger import Ledger
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.io.indexed import IndexedWriter
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.io.packed import COLUMNS, DataSetPaths, PieceIndex, file_records
from seqpack.text.tokenizer import tokenizer_fingerprint

VOCAB_SIZE = 61

WriteDataset = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Models this small gain nothing from a second thread, and wait for it when the machine is busy.
    torch.set_num_threads(1)


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer", VOCAB_SIZE)


def write_tokenizer(directory: Path, vocab_size: int) -> Path:
    directory.mkdir()
    vocabulary = {f"w{i}": i for i in range(vocab_size)}
    Tokenizer(WordLevel(vocabulary, unk_token="w0")).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w1", "pad_token": "w0"}))
    (directory / "chat_template.jinja").write_bytes(b"{{ messages }}\r\n")
    return directory


@pytest.fixture
def write_dataset(tmp_path: Path, tokenizer_dir: Path) -> WriteDataset:
    """``write_dataset([[3, 1], [4]], seq_length=5)`` -> the prefix of a packed set with these samples in its rows.

    ``mask=None`` makes an unpacked set. The first ``untrained`` tokens of each sample have no label.
    """

    def write(
        rows: Sequence[Sequence[int]],
        *,
        seq_length: int | None = None,
        mask: MaskMode | None = MaskMode.BLOCK_CAUSAL,
        untrained: int = 1,
        vocab_size: int = VOCAB_SIZE,
    ) -> Path:
        paths = DataSetPaths.of(tmp_path / f"data{len(list(tmp_path.iterdir()))}")
        rng = np.random.default_rng(0)
        writers = {name: IndexedWriter(paths.column(name)) for name in COLUMNS}
        pieces: list[tuple[int, int, int]] = []
        for number, lengths in enumerate(rows):
            total = max(seq_length or 0, sum(lengths))
            input_ids, labels = np.zeros(total, np.int32), np.full(total, IGNORE_INDEX, np.int32)
            for end, length in zip(np.cumsum(lengths), lengths, strict=True):
                sample = rng.integers(2, vocab_size, length)
                input_ids[end - length : end] = sample
                labels[end - length + untrained : end] = sample[untrained:]
                pieces.append((number, length, max(0, length - max(untrained, 1))))
            for name, column in zip(COLUMNS, (input_ids, labels, np.ones(total, np.int32)), strict=True):
                writers[name].append(column, [total])
        for writer in writers.values():
            writer.close()
        _finish(paths, pieces, len(rows), seq_length, mask, tokenizer_dir)
        return paths.prefix

    return write


def _finish(
    paths: DataSetPaths,
    pieces: list[tuple[int, int, int]],
    num_rows: int,
    seq_length: int | None,
    mask: MaskMode | None,
    tokenizer_dir: Path,
) -> None:
    row, length, num_targets = np.array(pieces, np.int64).T
    number = np.arange(len(pieces))
    index = PieceIndex(
        row,
        number,
        length.astype(np.int32),
        num_targets.astype(np.int32),
        np.zeros(len(pieces), np.int32),
        number + 1,
        ("made.jsonl",),
    )
    index.write(paths.index)
    paths.rejects.write_text("")
    paths.resolved.write_text("")
    record = TokenizerRecord(str(tokenizer_dir), tokenizer_fingerprint(tokenizer_dir), VOCAB_SIZE, 1, 0)
    Manifest(
        packed=mask is not None,
        seq_length=seq_length,
        strategy=None if mask is None else "bfd",
        mask=mask,
        seed=0,
        num_rows=num_rows,
        num_samples=len(pieces),
        ledger=Ledger(),
        tokenizer=record,
        recipe={},
        inputs={},
        files=file_records(paths),
        seqpack_version="0",
    ).write(paths.manifest)
