"""Parquet, and Arrow's stream and file formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpack.core.errors import DataError
from seqpack.io.readers.record import Part, Record
from seqpack.io.readers.streams import unreadable

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_BATCH = 1024
PARQUET_BUFFER = 1 << 18
ARROW_FILE_MAGIC = b"ARROW1"
STREAM_MARK = b"\xff\xff\xff\xff"
"""Before each message of a stream, and, with a length of zero, at its end."""

STREAM_END = STREAM_MARK + b"\0\0\0\0"


def read_parquet(path: Path, part: Part | None = None) -> Iterator[Record]:
    """Rows of a Parquet file, or of the row groups ``part``; page by page, as a row group may be the whole file."""
    part = part or Part()
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as file:
            # no threads: the workers of a run are processes, and share the cores among them
            groups = list(range(file.num_row_groups)[part.start : part.end])
            yield from file.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=groups, use_threads=False)

    return _records(path, batches(), first=part.first_line)


def row_groups(path: Path) -> list[tuple[int, int]]:
    """Rows and bytes of each row group of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "row 0", error) from error
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


def read_arrow(path: Path) -> Iterator[Record]:
    """Rows of an Arrow file, in the stream format (as ``datasets`` writes it) or the file format, as it begins."""
    return _records(path, _arrow_batches(path))


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    # mapped, not read: a batch may be the whole file
    with pa.memory_map(str(path)) as source:
        if source.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC:
            file = pa.ipc.open_file(source)
            batches: Iterator[pa.RecordBatch] = (file.get_batch(n) for n in range(file.num_record_batches))
        else:
            source.seek(0)
            batches = _stream(source)
        for batch in batches:
            # Arrow trusts the offsets in a file; a damaged one would read memory that is not there
            batch.validate(full=True)
            yield from (batch.slice(start, ROWS_PER_BATCH) for start in range(0, len(batch), ROWS_PER_BATCH))


def _stream(source: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    """Batches of the stream format; ArrowInvalid if the file ends where one more may have been, or goes on."""
    import pyarrow as pa

    yield from pa.ipc.open_stream(source)
    end = source.tell()
    source.seek(0)
    if source.read(len(STREAM_MARK)) != STREAM_MARK:
        return  # written before 2019, without marks
    source.seek(max(end - len(STREAM_END), 0))
    # pyarrow itself takes a file that is cut off between two batches for a shorter one
    if source.read(len(STREAM_END)) != STREAM_END:
        raise pa.ArrowInvalid("the end mark is missing, it was not written to its end")
    if end != source.size():
        raise pa.ArrowInvalid("there is more behind the end mark: several files in one?")


def _records(path: Path, batches: Iterator[pa.RecordBatch], *, first: int = 1) -> Iterator[Record]:
    import pyarrow as pa

    number = first - 1
    try:
        for batch in batches:
            for value in _values(batch, path, number):
                number += 1
                yield Record(path, number, value)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, f"row {number}", error) from error


def _values(batch: pa.RecordBatch, path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of a batch; DataError naming the row of a value that Python cannot hold, as text that is not UTF-8."""
    _check_names(batch, path)
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError):
        for number in range(len(batch)):
            try:
                batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                place = f"{path}:{before + number + 1}"
                raise DataError("SP103", f"{place} cannot be read ({error})", help="mend or delete that row") from error
        raise


def _check_names(batch: pa.RecordBatch, path: Path) -> None:
    names = batch.schema.names
    if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
        raise DataError("SP103", f"{path}: two columns are called {repeated[0]!r}", help="rename one of them")
