"""The same rows come out of every kind of file; which kinds there are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.core.errors import DataError
from seqpack.io.readers import known_kinds, read_records, resolve_inputs
from seqpack.io.readers.kinds import BINARY_READERS, TEXT_READERS, reader_of
from seqpack.io.readers.streams import OPENERS

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "formats"
SHARED = TESTS.parents[1] / "shared" / "data" / "formats"

FOLDERS = [pytest.param(GOLDEN, id="golden")]
FOLDERS += [pytest.param(SHARED, id="shared")] if SHARED.is_dir() else []


def values(path: Path) -> list[object]:
    return [record.value for record in read_records(path)]


def rows(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", ["alpaca", "text", "sharegpt"])
def test_the_same_rows_in_every_kind_of_file(folder, name):
    reference = next(
        path for path in folder.glob(f"{name}*.jsonl") if "bad" not in path.name and "hist" not in path.name
    )
    files = [path for path in resolve_inputs([folder]) if path.name.startswith(reference.stem)]
    assert len(files) >= {"alpaca": 6, "text": 6, "sharegpt": 2}[name]
    for file in files:
        assert values(file) == rows(reference), file.name


def test_the_golden_folder_has_every_kind():
    suffixes = {suffix for path in GOLDEN.iterdir() for suffix in path.suffixes}
    assert suffixes >= {*TEXT_READERS, *BINARY_READERS, *OPENERS}


def test_no_reader_needs_the_packages_that_would_take_seconds_to_import():
    script = "import sys, pathlib; from seqpack.io.readers import *\n"
    script += "for file in resolve_inputs([pathlib.Path(sys.argv[1])]): list(read_records(file))\n"
    script += "print([name for name in ('pandas', 'datasets', 'torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script, str(GOLDEN)], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_where_rows_stand():
    assert [record.line for record in read_records(GOLDEN / "alpaca.jsonl.gz")] == [1, 2, 3, 4, 5, 6]
    assert [record.line for record in read_records(GOLDEN / "alpaca.json")] == [1, 2, 3, 4, 5, 6]
    assert [record.line for record in read_records(GOLDEN / "alpaca.arrow")] == [1, 2, 3, 4, 5, 6]
    record = next(read_records(GOLDEN / "alpaca.csv"))
    assert record.line == 2, "the first line has the names"
    assert record.key == f"{GOLDEN / 'alpaca.csv'}:2"


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.b.csv.gz", "a.txt.ZST", "a.parquet", "a.arrow"])
def test_kinds_are_known_by_their_ending(name):
    assert reader_of(Path(name)) is not None


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.gz", "a", ".jsonl", "a.jsonl.bz2", "a.json.bak", "jsonl"])
def test_other_kinds_are_not_read(name):
    assert reader_of(Path(name)) is None


def test_all_kinds_are_listed():
    assert known_kinds() == ".jsonl, .json, .csv, .txt, .parquet, .arrow, the first four also with .gz or .zst behind"


@pytest.mark.parametrize("suffix", [*TEXT_READERS, *BINARY_READERS])
def test_a_file_that_may_not_be_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.mkdir()  # tests may run as root, who may read everything but a folder
    with pytest.raises(DataError, match=r"unreadable after (line|row) 0") as error:
        list(read_records(path))
    assert error.value.code == "SP103"


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.txt"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"], ids=["no bytes", "lf", "crlf", "bom"])
def test_a_file_without_text_has_no_rows(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert list(read_records(path)) == []
