"""A file twenty times as long takes no more memory."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqpack.io.readers import read_records

SHORT, LONG = 1_500, 30_000
ALLOWED = 1 << 20


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"instruction": f"Say the number {n}.", "output": f"{n} " * 20} for n in range(count))


def write_lines(path: Path, count: int) -> None:
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def write_array(path: Path, count: int) -> None:
    path.write_text(json.dumps(list(rows(count)), indent=1))


def write_csv(path: Path, count: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "output"])
        writer.writeheader()
        writer.writerows(rows(count))


def write_zstd(path: Path, count: int) -> None:
    write_lines(path.with_suffix(""), count)
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(path.with_suffix("").read_bytes())


def write_parquet(path: Path, count: int) -> None:
    table = pa.Table.from_pylist(list(rows(count)))
    pq.write_table(table, path, row_group_size=count, data_page_size=1 << 16, use_dictionary=False, compression="none")


def write_arrow(path: Path, count: int) -> None:
    table = pa.Table.from_pylist(list(rows(count)))
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "x.jsonl": write_lines,
    "x.jsonl.gz": write_lines,
    "x.jsonl.zst": write_zstd,
    "x.json": write_array,
    "x.csv": write_csv,
    "x.parquet": write_parquet,
    "x.arrow": write_arrow,
}


def peak(path: Path, expected: int) -> int:
    """Most bytes that reading a file held at any time, in Python and, as seen between rows, in Arrow."""
    before, count, in_arrow = pa.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    try:
        for _ in read_records(path):
            count += 1
            in_arrow = max(in_arrow, pa.total_allocated_bytes() - before)
        assert count == expected
        return tracemalloc.get_traced_memory()[1] + in_arrow
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WRITERS)
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    peaks = []
    for count in (SHORT, SHORT, LONG):  # the first run also fills caches and imports
        path = tmp_path / str(count) / name
        path.parent.mkdir(exist_ok=True)
        WRITERS[name](path, count)
        peaks.append(peak(path, count))
    _, short, long = peaks
    assert long < short + ALLOWED, f"{short:,} bytes for {SHORT:,} rows, {long:,} for {LONG:,}"
