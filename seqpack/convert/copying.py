"""Bytes from files into files along a plan: a block at a time, several tensors at once, memory bounded by the blocks.

Nothing is mapped: pages of mapped files count as memory of the process, and a column of a matrix read through them
touches the whole matrix.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack.convert.dtypes import DType, convert_bits
from seqpack.convert.plan import Copy, Held, Plan
from seqpack.convert.tensors import Key, Place, Tensor, matrix
from seqpack.core.errors import CheckpointError

BLOCK_BYTES = 256 << 10  # stays in the cache between reading, checksum and writing
TRANSPOSED_BLOCK_BYTES = 16 << 20  # a block of columns is read row by row: the wider, the fewer reads
SHORTEST_READ = 512  # bytes of a row below which reading whole rows costs less than reading a part of each
MAX_THREADS = 4


class OpenFiles:
    """Descriptors by path, opened on first use and closed together; reading and writing give a position every time."""

    def __init__(self, flags: int = os.O_RDONLY) -> None:
        self._flags, self._lock = flags, threading.Lock()
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, self._flags)
            return self._descriptors[path]

    def read(self, path: Path, offset: int, into: NDArray[np.uint8]) -> None:
        """Fill ``into`` (contiguous bytes) from ``offset`` on; CheckpointError SP401 if the file ends before."""
        done, descriptor = 0, self.descriptor(path)
        view = into.data
        while done < len(view):
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                raise CheckpointError("SP401", f"{path} is cut short", help="download or copy it again")
            done += count

    def write(self, path: Path, offset: int, data: memoryview) -> None:
        done, descriptor = 0, self.descriptor(path)
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)


def fill(
    plan: Plan,
    sources: Mapping[Key, Place],
    targets: Mapping[Key, Place],
    advance: Callable[[int], None] = lambda count: None,
) -> dict[Key, int]:
    """Write every target tensor; gives the CRC-32 of each. ``advance`` is told the bytes written.

    The first error of any thread stops all of them and is raised.
    """
    with OpenFiles() as reading, OpenFiles(os.O_WRONLY) as writing:

        def work(tensor: Tensor) -> tuple[Key, int]:
            checksum, place = 0, targets[tensor.key]
            offset = place.offset
            for block in gathered(tensor, plan.copies[tensor.key], sources, place, reading):
                data = block.data.cast("B")
                checksum = zlib.crc32(data, checksum)
                writing.write(place.path, offset, data)
                offset += len(data)
                advance(len(data))
            return tensor.key, checksum

        # large tensors first, so that no thread is left alone with one at the end
        largest_first = sorted(plan.targets, key=lambda tensor: -targets[tensor.key].num_bytes)
        return dict(in_threads(work, largest_first))


def compare(
    plan: Plan, places: Mapping[Key, Place], advance: Callable[[int], None] = lambda count: None
) -> list[tuple[Held, Held]]:
    """Pairs of the source's repeated parts that differ, although they should be equal to the last bit."""
    with OpenFiles() as files:

        def differs(pair: tuple[Held, Held]) -> bool:
            (one, here), (other, there) = ((places[held.key], held.place) for held in pair)
            if one.dtype is not other.dtype:
                return True
            height = max(1, BLOCK_BYTES // (here.columns * one.dtype.size))
            blocks = [np.empty((min(height, here.rows), here.columns), one.dtype.bits) for _ in range(2)]
            staging = Staging()
            for start in range(0, here.rows, height):
                count = min(height, here.rows - start)
                read_rows(one, here.row + start, here.column, blocks[0][:count], files, staging)
                read_rows(other, there.row + start, there.column, blocks[1][:count], files, staging)
                if not np.array_equal(blocks[0][:count], blocks[1][:count]):
                    return True
                advance(blocks[0][:count].nbytes)
            return False

        return [pair for pair, answer in zip(plan.repeats, in_threads(differs, plan.repeats), strict=True) if answer]


def in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``work`` of every item; when one fails, those not begun are given up and its error is raised."""
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and not future.cancelled() and future.exception()]
            if failed:
                raise failed[0].exception()  # type: ignore[misc]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def gathered(
    tensor: Tensor, copies: Sequence[Copy], sources: Mapping[Key, Place], target: Place, files: OpenFiles
) -> Iterator[NDArray[Any]]:
    """The rows of a target tensor, as bits of its type, block by block; a block is only valid until the next."""
    rows, columns, size = tensor.rows, tensor.columns, target.dtype.size
    limit = TRANSPOSED_BLOCK_BYTES if any(copy.transposed for copy in copies) else BLOCK_BYTES
    height = min(rows, max(1, limit // (columns * size)))
    buffer = np.empty((height, columns), target.dtype.bits)
    staging = Staging(), Staging()
    next_copy = 0
    for start in range(0, rows, height):
        end = min(rows, start + height)
        block = buffer[: end - start]
        while next_copy < len(copies) and copies[next_copy].filled.row + copies[next_copy].filled.rows <= start:
            next_copy += 1
        for copy in copies[next_copy:]:
            if copy.at_row >= end:
                break
            _fill_block(block, start, copy, sources[copy.source], target, files, staging)
        yield block


class Staging:
    """A buffer for what cannot be read to its place directly; it grows and is used again."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, rows: int, columns: int, bits: np.dtype[Any]) -> NDArray[Any]:
        count = rows * columns * bits.itemsize
        if len(self._bytes) < count:
            self._bytes = np.empty(count, np.uint8)
        return self._bytes[:count].view(bits).reshape(rows, columns)


def _fill_block(
    block: NDArray[Any],
    start: int,
    copy: Copy,
    source: Place,
    target: Place,
    files: OpenFiles,
    staging: tuple[Staging, Staging],
) -> None:
    """The part of ``copy`` that lies in a block whose first row is row ``start`` of the target."""
    filled = copy.filled
    first, last = max(start, filled.row), min(start + len(block), filled.row + filled.rows)
    if first >= last:
        return
    into = block[first - start : last - start, filled.column : filled.column + filled.columns]
    if copy.transposed:
        row, column, rows, columns = copy.row, copy.column + first - filled.row, copy.rows, last - first
    else:
        row, column, rows, columns = copy.row + first - filled.row, copy.column, last - first, copy.columns
    if source.dtype is target.dtype and not copy.transposed:
        read_rows(source, row, column, into, files, staging[0])
        return
    taken = staging[1].array(rows, columns, source.dtype.bits)
    read_rows(source, row, column, taken, files, staging[0])
    moved = convert_bits(taken, source.dtype, target.dtype)
    into[...] = moved.T if copy.transposed else moved


def read_rows(place: Place, row: int, column: int, into: NDArray[Any], files: OpenFiles, staging: Staging) -> None:
    """Fill ``into`` (bits of the place's type) with the rectangle at ``row``, ``column`` of a stored tensor."""
    size, (rows, columns) = place.dtype.size, into.shape
    offset = place.offset + (row * place.row_stride + column) * size
    is_whole = columns == place.row_stride
    if is_whole and into.flags.c_contiguous:
        files.read(place.path, offset, into.reshape(-1).view(np.uint8))
    elif is_whole or columns * size < SHORTEST_READ:
        whole = staging.array(rows, place.row_stride, place.dtype.bits)
        # the last row may end before the stride does
        last = (rows - 1) * place.row_stride + column + columns
        files.read(place.path, offset - column * size, whole.reshape(-1)[:last].view(np.uint8))
        into[...] = whole[:, column : column + columns]
    else:
        stride = place.row_stride * size
        for number in range(rows):
            files.read(place.path, offset + number * stride, into[number].view(np.uint8))


def contiguous_place(path: Path, offset: int, dtype: DType, shape: tuple[int, ...]) -> Place:
    return Place(path, offset, dtype, shape, matrix(shape)[1])


def total_bytes(places: Iterable[Place]) -> int:
    return sum(place.num_bytes for place in places)
