"""Folders of save_to_disk are read as what they are: Arrow files in the order that state.json gives."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from seqpack.core.errors import DataError
from seqpack.io.readers import input_notes, read_records, resolve_inputs
from seqpack.io.readers.saved import saved_files


@pytest.fixture
def saved(tmp_path) -> Path:
    """What ``Dataset.from_list([{"a": 0}, ... {"a": 3}]).save_to_disk(folder, num_shards=2)`` leaves behind."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for number in range(2):
        table = pa.Table.from_pylist([{"a": 2 * number}, {"a": 2 * number + 1}])
        with pa.ipc.new_stream(str(folder / f"data-{number:05d}-of-00002.arrow"), table.schema) as writer:
            writer.write_table(table)
    write_state(folder, [1, 0])
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return folder


def write_state(folder: Path, order: list[int], **more: object) -> None:
    files = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in order]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None, **more}, indent=2))


def test_rows_in_the_order_of_the_state(saved):
    files = resolve_inputs([saved])
    assert [path.name for path in files] == ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    assert [record.value for file in files for record in read_records(file)] == [{"a": n} for n in (2, 3, 0, 1)]
    assert input_notes([saved], files) == []


def test_another_folder_is_not_taken_for_one(saved):
    (saved / "dataset_info.json").unlink()
    assert saved_files(saved) is None


def test_several_splits_are_not_mixed(saved, tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["saved"]}')
    with pytest.raises(DataError, match="holds several splits: saved") as error:
        resolve_inputs([tmp_path])
    assert error.value.code == "SP101"


def test_a_missing_file_is_named(saved):
    (saved / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00000-of-00002\.arrow is missing") as error:
        resolve_inputs([saved])
    assert error.value.code == "SP101"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_data_files": [3]}', '{"_data_files": [{"filename": 3}]}', "\xff"])
def test_a_damaged_state_is_named(saved, text):
    (saved / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"state\.json is damaged") as error:
        resolve_inputs([saved])
    assert error.value.code == "SP103"


def test_rows_chosen_by_an_index_are_not_read_as_all_rows(saved):
    write_state(saved, [0, 1], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="index beside its rows"):
        resolve_inputs([saved])


def test_what_datasets_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"a": n, "b": ["x", None]} for n in range(10)]
    datasets.Dataset.from_list(rows).select([3, 1, 2]).save_to_disk(str(tmp_path / "s"), num_shards=2)
    files = resolve_inputs([tmp_path / "s"])
    assert [record.value for file in files for record in read_records(file)] == [rows[n] for n in (3, 1, 2)]
