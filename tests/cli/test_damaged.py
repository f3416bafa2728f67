"""Bad files through the real command, in a process of its own: an error with its place or a counted reject.

Never a traceback, never an output that looks whole although it is not, never gigabytes of memory.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROW = {"instruction": "Say hi.", "input": "", "output": "hi"}
MEGABYTES = 600


# The system's own count of a child's memory begins with that of the process which forked it.
MEASURED = """
import atexit, re, sys
from pathlib import Path

def peak():
    print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1), file=sys.stderr)

atexit.register(peak)
from seqpack.cli.app import main
main()
"""


class Done(NamedTuple):
    """How a command ended, and the most memory it had."""

    code: int
    out: str
    err: str
    megabytes: int


@pytest.fixture
def preprocess(tokenizer_dir: Path, tmp_path: Path) -> Callable[..., Done]:
    """``preprocess(data, *flags)`` writes the set ``out/x``."""

    def call(data: Path, *flags: object) -> Done:
        words = (data, "--tokenizer", tokenizer_dir, "-o", tmp_path / "out" / "x", "--workers", 1, *flags)
        command = [sys.executable, "-c", MEASURED, "preprocess", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        err, _, kilobytes = done.stderr.rpartition("peak ")
        done = Done(done.returncode, done.stdout, err, int(kilobytes) >> 10)
        assert "Traceback" not in done.out + done.err, done.err
        if done.code:
            assert not list((tmp_path / "out").glob("*")), "a failure leaves nothing behind"
        return done

    return call


def rejects(tmp_path: Path) -> list[tuple[int, str, str]]:
    """Line, outcome and reason of each row that is not kept as it was."""
    lines = (tmp_path / "out" / "x_packed_rejects.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines]
    return [(int(loss["key"].rpartition(":")[2]), loss["outcome"], loss["reason"]) for loss in losses]


def as_bytes(*rows: Any) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


DEEP_LIST = b'{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
DEEP_OBJECT = b'{"output": ' * 100_000 + b"1" + b"}" * 100_000
TWICE = b'{"instruction": "a", "instruction": "b", "output": "c"}\n'


@pytest.mark.parametrize(
    ("name", "content", "code", "phrases"),
    [
        ("x.jsonl", as_bytes(ROW, b'{"instruction": "caf\xe9", "output": "x"}\n'), 3, ("SP103", "x.jsonl:2", "UTF-8")),
        ("x.csv", b"instruction,output\na,b\ncaf\xe9,x\n", 3, ("SP103", "x.csv:3", "UTF-8")),
        ("x.json", b'[{"instruction": "a", "output": "\xff"}]', 3, ("SP103", "x.json:1", "UTF-8")),
        ("x.jsonl", as_bytes(ROW, b"\0\0\0\0\n", ROW), 3, ("SP103", "x.jsonl:2", "NUL bytes")),
        ("x.jsonl", as_bytes(ROW, DEEP_LIST), 3, ("SP103", "x.jsonl:2", "nested too deeply")),
        ("x.json", b"[" + DEEP_OBJECT + b"]", 3, ("SP103", "x.json:1", "nested too deeply")),
        ("x.jsonl", as_bytes(ROW, TWICE), 3, ("SP103", "x.jsonl:2", "twice")),
        ("x.jsonl", b"", 3, ("SP109", "no rows", "x.jsonl")),
        ("x.jsonl", b" \n\n\t\n", 3, ("SP109", "no rows", "x.jsonl")),
        ("x.json", b"", 3, ("SP109", "no rows", "x.json")),
        ("x.json", b"[]", 3, ("SP109", "no rows", "x.json")),
        ("x.csv", b"instruction,input,output\n", 3, ("SP109", "no rows", "x.csv")),
        ("x.csv", b"", 3, ("SP109", "no rows", "x.csv")),
        ("x.csv", b'instruction,output\na,"b\n', 3, ("SP103", "x.csv:2", "quotes")),
        ("x.parquet", b"", 3, ("SP103", "x.parquet")),
        ("x.parquet", b"PAR1" + b"\0" * 99 + b"PAR1", 3, ("SP103", "x.parquet")),
        ("x.arrow", b"\xff" * 99, 3, ("SP103", "x.arrow")),
        ("x.jsonl.gz", gzip.compress(as_bytes(ROW) * 999)[:-20], 3, ("SP103", "x.jsonl.gz")),
        ("x.jsonl.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 20, 3, ("SP103", "x.jsonl.zst")),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read(preprocess, tmp_path, name, content, code, phrases):
    (tmp_path / name).write_bytes(content)
    done = preprocess(tmp_path / name)
    assert done.code == code, done.err
    assert all(phrase in done.err for phrase in phrases), done.err


WRONG: list[tuple[Any, str]] = [
    ({"instruction": 1, "input": "", "output": "x"}, "rejected"),
    ({"instruction": ["a"], "input": {}, "output": "x"}, "rejected"),
    ({"instruction": "a", "input": "", "output": None}, "rejected"),
    ({"instruction": "a", "input": "", "output": ""}, "rejected"),
    ({"instruction": "", "input": "", "output": "x"}, "rejected"),
    ({}, "rejected"),
    (["not", "a", "dict"], "rejected"),
    (7, "rejected"),
    ({"instruction": "half \ud83d", "input": "", "output": "\udc4d"}, "mended"),
]
FINE: list[Any] = [
    {"instruction": "NUL \0", "input": "", "output": "\0"},
    {"instruction": "emoji", "input": "", "output": "👨‍👩‍👧🎉"},
    {"instruction": "   ", "input": "", "output": "only blanks before"},
    {"instruction": "says <|im_end|>", "input": "<|im_start|>system\n", "output": "<|endoftext|>"},
]


def bad_rows(tmp_path: Path) -> dict[str, Path]:
    """The same rows, good and bad, in every form of JSON."""
    rows = [ROW, *(row for row, _ in WRONG), *FINE]
    text = as_bytes(*rows)
    files = {name: tmp_path / name for name in ("x.jsonl", "x.json", "x.jsonl.gz", "x.jsonl.zst")}
    files["x.jsonl"].write_bytes(text)
    files["x.json"].write_text(json.dumps(rows, indent=1))
    files["x.jsonl.gz"].write_bytes(gzip.compress(text))
    with pa.output_stream(str(files["x.jsonl.zst"]), compression="zstd") as stream:
        stream.write(text)
    return files


def test_bad_rows_are_counted_the_same_in_every_form(preprocess, tmp_path):
    seen = []
    for file in bad_rows(tmp_path).values():
        done = preprocess(file, "--max-drop", 1, "--overwrite", "--json")
        assert done.code == 0, done.err
        ledger = json.loads(done.out)["ledger"]
        tokens = (tmp_path / "out" / "x_packed_input_ids_document.bin").read_bytes()
        seen.append((rejects(tmp_path), ledger, tokens))
    listed, ledger, _ = seen[0]
    assert all(other == seen[0] for other in seen)
    assert [(line, outcome) for line, outcome, _ in listed] == [
        (line, outcome) for line, (_, outcome) in enumerate(WRONG, 2)
    ]
    assert ledger["kept"]["samples"] == 1 + 1 + len(FINE) and ledger["mended"] == 1


def test_columns_of_wrong_types(preprocess, tmp_path):
    """Tables have types: no row can be used, and each is counted."""
    table = pa.table({"instruction": [1, 2], "input": [None, None], "output": [[1], []]})
    pq.write_table(table, tmp_path / "x.parquet")
    done = preprocess(tmp_path / "x.parquet", "--handler", "alpaca")
    assert done.code == 3 and "SP109" in done.err and "none of 2 rows" in done.err
    pq.write_table(table.schema.empty_table(), tmp_path / "x.parquet")
    done = preprocess(tmp_path / "x.parquet")
    assert done.code == 3 and "SP109" in done.err and "no rows" in done.err


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_a_line_of_50_megabytes(preprocess, tmp_path, name):
    """It is left out and counted: encoding it would take 8 GB."""
    giant = {**ROW, "output": "it is said " * (50 * 2**20 // 11)}
    rows = [ROW] * 30 + [giant] + [ROW] * 30
    file = tmp_path / name
    with file.open("w", newline="") as stream:
        if name == "x.csv":
            writer = csv.DictWriter(stream, list(ROW))
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.write(as_bytes(*rows).decode() if name == "x.jsonl" else json.dumps(rows))
    done = preprocess(file, "--neat-pack", "--seq-length", 128)
    assert done.code == 0, done.err
    assert rejects(tmp_path) == [(32 if name == "x.csv" else 31, "rejected", "more than 2,097,152 characters")]
    # Python's reader of CSV holds a value with four bytes for each character
    assert done.megabytes < MEGABYTES + 150 * (name == "x.csv")
    if name == "x.jsonl":
        done = preprocess(file, "--handler", "text", "--json-keys", "output")
        assert done.code == 0 and done.megabytes < MEGABYTES, done
        assert "a document of more than" in (tmp_path / "out" / "x_rejects.jsonl").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk(preprocess, tmp_path):
    """A file system of one megabyte, not a limit of the process: what is left on it is what users would see."""
    folder = tmp_path / "out"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount anything")
    try:
        file = tmp_path / "x.jsonl"
        file.write_bytes(as_bytes({**ROW, "output": "it is said " * 100}) * 3000)
        done = preprocess(file)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert done.code == 5, done.err
    assert "error[SP503]" in done.err and "nothing was published" in done.err
