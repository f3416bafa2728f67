"""Files of ``torch.save``: uncompressed zip archives, written by filling in the bytes of their tensors in any order.

A file becomes one that can be read only when ``close`` writes the names of its records and their checksums.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from seqpack.core.errors import CheckpointError

ALIGNMENT = 64
FOUR_GIGABYTES = 0xFFFFFFFF
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_DATE_1980 = 0x21


@dataclass(frozen=True, slots=True)
class Record:
    """One file inside the archive; ``start`` is where its data begin, counted from the start of the archive."""

    name: str
    size: int
    header: int
    start: int


class TorchZip:
    """An archive of small records and tensors of known size, at ``base`` of a file (which may hold several)."""

    def __init__(self, pickled: bytes, tensor_sizes: Sequence[int], *, base: int = 0, stem: str = "archive") -> None:
        self._base = base
        self._small = {
            f"{stem}/data.pkl": pickled,
            f"{stem}/.format_version": b"1",
            f"{stem}/.storage_alignment": str(ALIGNMENT).encode(),
            f"{stem}/byteorder": b"little",
            f"{stem}/version": b"3\n",
        }
        sizes = {name: len(data) for name, data in self._small.items()}
        self._tensors = [f"{stem}/data/{number}" for number in range(len(tensor_sizes))]
        sizes |= dict(zip(self._tensors, tensor_sizes, strict=True))
        self._records: dict[str, Record] = {}
        end = 0
        for name, size in sizes.items():
            record = Record(name, size, end, _aligned(end + _LOCAL.size + len(name.encode()) + _extra_64(size)))
            self._records[name] = record
            end = record.start + size
        self._end = end

    @property
    def tensor_starts(self) -> list[int]:
        """Where the data of each tensor begin in the file."""
        return [self._base + self._records[name].start for name in self._tensors]

    @property
    def num_bytes(self) -> int:
        return self._end + len(self._directory(dict.fromkeys(self._records, 0)))

    def close(self, path: Path, checksums: Sequence[int]) -> None:
        """Write everything but the tensors' data; ``checksums`` are the CRC-32 of those, in order."""
        crc = {name: zlib.crc32(data) for name, data in self._small.items()}
        crc |= dict(zip(self._tensors, checksums, strict=True))
        with path.open("r+b") as file:
            for name, record in self._records.items():
                file.seek(self._base + record.header)
                file.write(_local_header(record, crc[name]))
                if name in self._small:
                    file.write(self._small[name])
            file.seek(self._base + self._end)
            file.write(self._directory(crc))

    def _directory(self, crc: Mapping[str, int]) -> bytes:
        entries = b"".join(_central_entry(record, crc[name]) for name, record in self._records.items())
        count, size, end = len(self._records), len(entries), self._end
        tail = b""
        if count >= 0xFFFF or end + size >= FOUR_GIGABYTES:
            tail += _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, count, count, size, end)
            tail += _LOCATOR_64.pack(b"PK\6\7", 0, end + size, 1)
            count, size, end = min(count, 0xFFFF), min(size, FOUR_GIGABYTES), min(end, FOUR_GIGABYTES)
        return entries + tail + _END.pack(b"PK\5\6", 0, 0, count, count, size, end, 0)


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, base: int, length: int) -> None:
        self._file, self._base, self._length, self._position = file, base, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise OSError("a position before the start")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._base + self._position)
        data = self._file.read(max(0, min(len(buffer), self._length - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def record_starts(path: Path, *, base: int = 0, length: int | None = None) -> dict[str, tuple[int, int]]:
    """Start in the file and size of the data of every record of an archive.

    The archive is the whole file, or the ``length`` bytes from ``base`` on. CheckpointError SP401 if it is not whole.
    """
    try:
        with path.open("rb") as whole:
            size = os.fstat(whole.fileno()).st_size - base if length is None else length
            file = _Window(whole, base, size)
            archive = zipfile.ZipFile(cast(BinaryIO, file))
            starts = {}
            for info in archive.infolist():
                file.seek(info.header_offset)
                local = file.read(_LOCAL.size) or b""
                start = base + info.header_offset + _LOCAL.size + sum(struct.unpack("<HH", local[26:30]))
                if info.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile(f"{info.filename} is compressed")
                starts[info.filename] = (start, info.file_size)
            return starts
    except (zipfile.BadZipFile, struct.error, OSError, NotImplementedError) as error:
        raise CheckpointError(
            "SP401",
            f"{path} cannot be read, it may be cut short: {error}",
            help="copy it again; a file of torch before 1.6 has to be loaded and saved again",
        ) from error


def _aligned(position: int) -> int:
    """The next position that is a multiple of ALIGNMENT and leaves room for the header of the padding, or none."""
    padding = -position % ALIGNMENT
    return position + (padding if padding == 0 or padding >= 4 else padding + ALIGNMENT)


def _extra_64(size: int) -> int:
    return 20 if size >= FOUR_GIGABYTES else 0


def _local_header(record: Record, crc: int) -> bytes:
    name = record.name.encode()
    extra = b""
    size = record.size
    if size >= FOUR_GIGABYTES:
        extra = struct.pack("<2H2Q", 1, 16, size, size)
        size = FOUR_GIGABYTES
    padding = record.start - record.header - _LOCAL.size - len(name) - len(extra)
    if padding:
        # "FB" is how torch marks the bytes that only align
        extra += struct.pack("<2s1H", b"FB", padding - 4) + b"Z" * (padding - 4)
    return _LOCAL.pack(b"PK\3\4", 45, 0, 0, 0, _DATE_1980, crc, size, size, len(name), len(extra)) + name + extra


def _central_entry(record: Record, crc: int) -> bytes:
    name = record.name.encode()
    wide: list[int] = []
    size, header = record.size, record.header
    if size >= FOUR_GIGABYTES:
        wide += [size, size]
        size = FOUR_GIGABYTES
    if header >= FOUR_GIGABYTES:
        wide.append(header)
        header = FOUR_GIGABYTES
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    packed = _CENTRAL.pack(
        b"PK\1\2", 45, 45, 0, 0, 0, _DATE_1980, crc, size, size, len(name), len(extra), 0, 0, 0, 0, header
    )
    return packed + name + extra
