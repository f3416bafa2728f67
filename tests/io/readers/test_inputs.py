"""--input names files, folders and patterns; nothing is passed over without a word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from seqpack.core.diagnostics import DIAGNOSTICS
from seqpack.core.errors import ConfigError, DataError
from seqpack.io.readers import input_notes, resolve_inputs


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "folder"
    for name in ("b.jsonl", "a.csv.gz", "c.JSON", "README.md", ".hidden.jsonl", "deep/d.txt", "x_packed_manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def notes(*inputs: Path) -> list[tuple[str, str]]:
    return [(note.code, note.text) for note in input_notes(inputs, resolve_inputs(inputs))]


def test_a_folder_stands_for_all_kinds_of_files_in_it(folder):
    assert names(resolve_inputs([folder])) == ["a.csv.gz", "b.jsonl", "c.JSON"]


def test_what_is_passed_over_is_named(folder):
    unread = [folder / "README.md", f"{folder / 'deep'}/", folder / "x_packed_manifest.json"]
    assert notes(folder) == [("SP113", f"not read: {', '.join(map(str, unread))}")]


def test_a_long_list_is_cut_and_counted(folder):
    for number in range(10):
        (folder / f"{number}.log").touch()
    assert notes(folder)[0][1].endswith("4.log and 8 more")


@pytest.mark.parametrize("name", ["x_packed_rejects.jsonl", "x_packed_index.arrow", "dataset_info.json"])
def test_what_is_left_of_other_runs_is_no_data(folder, name):
    (folder / name).touch()
    assert name not in names(resolve_inputs([folder]))
    assert name in notes(folder)[0][1]
    assert names(resolve_inputs([folder / name])) == [name], "unless it is asked for"


def test_files_keep_the_order_they_were_named_in(folder):
    paths = [folder / "b.jsonl", folder / "a.csv.gz"]
    assert resolve_inputs(paths) == paths
    assert notes(*paths) == []


def test_a_file_that_comes_twice_is_named(folder):
    assert ("SP114", f"read more than once: {folder / 'b.jsonl'}") in notes(folder, folder / "b.jsonl")


def test_codes_of_notes_have_pages():
    assert {"SP113", "SP114"} <= DIAGNOSTICS.keys()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["b.jsonl"]),
        ("[ab].*", ["a.csv.gz", "b.jsonl"]),
        ("?.c*", ["a.csv.gz"]),
        ("*", ["a.csv.gz", "b.jsonl", "c.JSON"]),
        ("**/*", ["a.csv.gz", "b.jsonl", "c.JSON", "d.txt"]),
        ("*/d.txt", ["d.txt"]),
    ],
)
def test_patterns(folder, pattern, expected):
    assert names(resolve_inputs([folder / pattern])) == expected


def test_patterns_relative_to_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve_inputs([Path("*.jsonl")]) == [Path("b.jsonl")]


def test_what_a_pattern_passes_over_is_named(folder):
    unread = [folder / "README.md", folder / "x_packed_manifest.json"]
    assert notes(folder / "**" / "*") == [("SP113", f"not read: {', '.join(map(str, unread))}")]


def test_a_file_may_be_called_like_a_pattern(folder):
    path = folder / "a[1].jsonl"
    path.touch()
    assert resolve_inputs([path]) == [path]


@pytest.mark.parametrize(
    ("name", "error", "code", "help"),
    [
        ("missing.jsonl", DataError, "SP101", "check --input"),
        ("b.json", DataError, "SP101", "did you mean 'b.jsonl'"),
        ("empty", DataError, "SP101", "check --input"),
        ("above", DataError, "SP101", "/**/*"),
        ("*.parquet", DataError, "SP101", "known kinds"),
        ("README.md", ConfigError, "SP009", ".jsonl, .json, .csv"),
        ("n" * 300 + ".jsonl", DataError, "SP101", "check --input"),
    ],
    ids=["missing", "typo", "empty", "only folders", "no match", "unknown kind", "impossible name"],
)
def test_what_is_no_input_is_named(folder, name, error, code, help):
    (folder / "empty").mkdir()
    (folder / "above" / "below").mkdir(parents=True)
    with pytest.raises(error) as raised:
        resolve_inputs([folder / name])
    assert raised.value.code == code
    assert str(folder / name) in raised.value.message and help in raised.value.help


@pytest.mark.skipif(os.geteuid() == 0 or shutil.which("chmod") is None, reason="root may open every folder")
def test_a_folder_that_may_not_be_opened(folder):
    folder.chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be opened"):
            resolve_inputs([folder])
    finally:
        folder.chmod(0o755)
