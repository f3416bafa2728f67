"""Names of the hub are looked up only where no path can be meant, and through a package that may be missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqpack.core.errors import DataError, DeviceError
from seqpack.io.readers import resolve_inputs
from seqpack.io.readers.hub import may_be_hub_name


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the package: one data set, and a list of what it was asked for."""
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, *, split: str) -> SimpleNamespace:
        asked.append((name, split))
        if name == "org/memory":
            return SimpleNamespace(cache_files=[])
        if name != "org/name":
            raise FileNotFoundError(f"Couldn't find {name}\nmore")
        return SimpleNamespace(cache_files=[{"filename": "/cache/a-0.arrow"}, {"filename": "/cache/a-1.arrow"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


@pytest.mark.parametrize("name", ["org/name", "hf:org/name"])
def test_a_name_of_the_hub_stands_for_its_cached_files(hub, name):
    assert resolve_inputs([Path(name)]) == [Path("/cache/a-0.arrow"), Path("/cache/a-1.arrow")]
    assert hub == [("org/name", "train")]


@pytest.mark.parametrize("name", ["org/name.jsonl", "a/b/c", "./a/b/c", "/org/name", "name", "../name", "org/na me"])
def test_what_looks_like_a_path_is_not_looked_up(hub, name):
    with pytest.raises(DataError, match="there is no file or folder") as error:
        resolve_inputs([Path(name)])
    assert error.value.code == "SP101" and hub == []


def test_a_misspelt_file_in_a_folder_that_is_there_is_not_looked_up(hub, tmp_path):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "nama").mkdir()
    with pytest.raises(DataError, match="there is no file or folder org/name") as error:
        resolve_inputs([Path("org/name")])
    assert "did you mean 'nama'" in error.value.help and "write hf:org/name" in error.value.help
    assert hub == []
    assert resolve_inputs([Path("hf:org/name")])


def test_a_folder_comes_before_the_hub(hub, tmp_path):
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "x.jsonl").touch()
    assert resolve_inputs([Path("org/name")]) == [Path("org/name/x.jsonl")]
    assert hub == []


def test_neither_a_path_nor_on_the_hub(hub):
    with pytest.raises(DataError, match="no file or folder org/other, and the Hugging Face hub") as error:
        resolve_inputs([Path("org/other")])
    assert error.value.code == "SP101"
    assert "FileNotFoundError: Couldn't find org/other)" in error.value.message


def test_a_data_set_without_files(hub):
    with pytest.raises(DataError, match="has no files"):
        resolve_inputs([Path("org/memory")])


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DeviceError, match="there is no file or folder org/name; to look for it on the Hug") as error:
        resolve_inputs([Path("org/name")])
    assert error.value.code == "SP502" and error.value.exit_code == 5
    assert 'pip install "seqpack-toolkit[hub]"' in error.value.help


@pytest.mark.parametrize(("name", "expected"), [("tatsu-lab/alpaca", True), ("a.b/c_d-1", True), ("-a/b", False)])
def test_names(name, expected):
    assert may_be_hub_name(Path(name)) is expected
