"""A set on disk against the rows it was made from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError, FormatError
from seqpack.core.ledger import Ledger
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.io.indexed import IndexedWriter
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.io.packed import COLUMNS, DataSetPaths, PackedDataset, PieceIndex, file_records

SEQ_LENGTH = 12
Sample = tuple[list[int], list[int]]


def write_set(prefix: Path, rows: list[list[Sample]], *, packed: bool = True) -> DataSetPaths:
    """Rows of (ids, labels), written token by token without the code that seqpack writes sets with."""
    paths = DataSetPaths(prefix)
    pieces: list[tuple[int, ...]] = []
    with (
        IndexedWriter(paths.column("input_ids")) as ids,
        IndexedWriter(paths.column("labels")) as labels,
        IndexedWriter(paths.column("attention_mask")) as mask,
    ):
        for number, row in enumerate(rows):
            filled = [token for sample, _ in row for token in sample]
            targets = [label for _, sample in row for label in sample]
            length = SEQ_LENGTH if packed else len(filled)
            ids.append(np.array(filled + [0] * (length - len(filled)), np.int32), [length])
            labels.append(np.array(targets + [IGNORE_INDEX] * (length - len(filled)), np.int32), [length])
            mask.append(np.ones(length, np.int32), [length])
            for sample in row:
                trained = sum(label != IGNORE_INDEX for label in sample[1][1:])
                pieces.append((number, len(pieces), len(sample[0]), trained, len(pieces) % 2, 10 + len(pieces)))
    row_of, sample, length, num_targets, source, line = np.array(pieces, np.int64).reshape(-1, 6).T
    narrow = [column.astype(np.int32) for column in (length, num_targets, source)]
    PieceIndex(row_of, sample, *narrow, line, ("a.jsonl", "b c.jsonl")).write(paths.index)
    paths.rejects.touch()
    paths.resolved.touch()
    Manifest(
        packed=packed,
        seq_length=SEQ_LENGTH if packed else None,
        strategy="greedy" if packed else None,
        mask=MaskMode.BLOCK_CAUSAL if packed else None,
        seed=0,
        num_rows=len(rows),
        num_samples=len(pieces),
        ledger=Ledger(),
        tokenizer=TokenizerRecord("", "", 100, None, 0),
        recipe={},
        inputs={},
        files=file_records(paths),
        seqpack_version="0",
    ).write(paths.manifest)
    return paths


@st.composite
def packed_rows(draw):
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        row, room = [], SEQ_LENGTH
        while room and (not row or draw(st.booleans())):
            length = draw(st.integers(1, room))
            ids = draw(st.lists(st.integers(0, 99), min_size=length, max_size=length))
            trained = draw(st.lists(st.booleans(), min_size=length, max_size=length))
            row.append(
                (ids, [token if is_trained else IGNORE_INDEX for token, is_trained in zip(ids, trained, strict=True)])
            )
            room -= length
        rows.append(row)
    return rows


@given(packed_rows(), st.booleans())
def test_everything_against_the_rows_it_was_made_from(rows, packed):
    with tempfile.TemporaryDirectory() as folder:
        dataset = PackedDataset.open(write_set(Path(folder, "x"), rows, packed=packed).prefix)
        assert len(dataset) == len(rows)
        for row, sequence in zip(rows, dataset, strict=True):
            assert sequence.num_samples == len(row)
            parts = np.split(sequence.input_ids, sequence.cu_seqlens[1:-1])
            labels = np.split(sequence.labels, sequence.cu_seqlens[1:-1])
            assert [part.tolist() for part in parts[: len(row)]] == [ids for ids, _ in row]
            assert [part.tolist() for part in labels[: len(row)]] == [label for _, label in row]
            num_tokens = sum(len(ids) for ids, _ in row)
            assert sequence.num_padding == (SEQ_LENGTH - num_tokens if packed else 0)
            assert sequence.cu_seqlens.dtype == np.int32 and sequence.cu_seqlens[-1] == len(sequence)
        assert dataset.num_samples.tolist() == list(map(len, rows))
        assert dataset.num_tokens.tolist() == [sum(len(ids) for ids, _ in row) for row in rows]
        assert dataset.num_targets.tolist() == [
            sum(label != IGNORE_INDEX for _, labels in row for label in labels[1:]) for row in rows
        ]
        assert dataset.row_lengths.tolist() == [len(sequence) for sequence in dataset]
        starts = zip(dataset.piece_starts.tolist(), dataset.pieces.length.tolist(), strict=True)
        samples = [sample for row in rows for sample in row]
        for (start, length), (ids, sample_labels) in zip(starts, samples, strict=True):
            assert dataset.tokens[start : start + length].tolist() == ids
            assert dataset.labels[start : start + length].tolist() == sample_labels


ROWS: list[list[Sample]] = [[([1, 2, 3], [-100, 2, 3])], [([4, 5], [-100, 5]), ([6], [-100])]]


@pytest.fixture
def paths(tmp_path) -> DataSetPaths:
    return write_set(tmp_path / "x", ROWS)


def test_rows_count_from_the_end_too_and_end_there(paths):
    dataset = PackedDataset.open(paths.prefix)
    assert dataset[-2].num_samples == 1 and dataset[-2].input_ids[:3].tolist() == [1, 2, 3]
    for row in (2, -3):
        with pytest.raises(IndexError):
            dataset[row]


def test_a_piece_knows_where_it_comes_from(paths):
    pieces = PackedDataset.open(paths.prefix).pieces
    assert [pieces.key(piece) for piece in range(len(pieces))] == ["a.jsonl:10", "b c.jsonl:11", "a.jsonl:12"]


def test_pieces_can_be_taken_into_other_rows(paths):
    pieces = PackedDataset.open(paths.prefix).pieces
    taken = pieces.take(np.array([2, 0]), np.array([0, 0]))
    assert taken.row.tolist() == [0, 0] and taken.sample.tolist() == [2, 0] and taken.line.tolist() == [12, 10]
    assert taken.length.tolist() == [1, 3] and taken.num_targets.tolist() == [0, 2]
    assert pieces.row.tolist() == [0, 1, 1]


@pytest.mark.parametrize("spelling", ["x", "x_packed"])
def test_the_prefix_may_be_given_as_megatron_takes_it(tmp_path, paths, spelling):
    assert len(PackedDataset.open(tmp_path / spelling)) == 2
    assert len(PackedDataset.open(str(tmp_path / spelling))) == 2


def test_a_set_that_is_itself_called_packed_is_found_first(tmp_path, paths):
    write_set(tmp_path / "x_packed", ROWS[:1])
    assert len(PackedDataset.open(tmp_path / "x_packed")) == 1
    assert len(PackedDataset.open(tmp_path / "x")) == 2


@pytest.mark.parametrize("prefix", [".", "..", "/", "a/.."])
def test_a_folder_is_no_prefix(prefix):
    with pytest.raises(ConfigError, match="not a prefix") as error:
        DataSetPaths.of(prefix)
    assert error.value.code == "SP001"


def test_a_set_may_be_renamed_as_a_whole(tmp_path, paths):
    (tmp_path / "elsewhere").mkdir()
    for path in (*paths.files, paths.manifest):
        path.rename(tmp_path / "elsewhere" / path.name.replace("x_packed", "new.name_packed"))
    assert PackedDataset.open(tmp_path / "elsewhere" / "new.name")[1].num_samples == 2


def test_the_files_are_those_on_disk_and_indexes_come_after_contents(tmp_path, paths):
    assert {*paths.files, paths.manifest} == set(tmp_path.iterdir())
    kinds = [path.suffix for path in paths.files]
    assert kinds.index(".idx") > max(place for place, kind in enumerate(kinds) if kind == ".bin")
    assert len(COLUMNS) == kinds.count(".bin") == kinds.count(".idx")


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("damage", ["longer", "missing"])
def test_a_file_of_another_size_is_noticed(paths, number, damage):
    file = paths.files[number]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"\x00" * 4)
    with pytest.raises(FormatError, match=file.name) as error:
        PackedDataset.open(paths.prefix)
    assert error.value.code == "SP105"


def test_an_index_of_the_right_size_that_is_none(paths):
    paths.index.write_bytes(b"\x00" * paths.index.stat().st_size)
    with pytest.raises(FormatError, match="not a piece index") as error:
        PackedDataset.open(paths.prefix)
    assert error.value.code == "SP105"


def test_a_set_without_manifest_is_unfinished(paths):
    paths.manifest.unlink()
    with pytest.raises(DataError, match="unfinished") as error:
        PackedDataset.open(paths.prefix)
    assert error.value.code == "SP106"
