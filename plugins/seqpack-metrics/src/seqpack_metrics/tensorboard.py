"""TensorBoard event files, written without TensorBoard: records of protocol buffers with checksums.

A record is its length (u64), the masked CRC-32C of that, an ``Event``, and the masked CRC-32C of it. An ``Event`` holds
wall time (field 1), step (2) and either the file's version (3) or a summary (5) of named numbers.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


class TensorBoardSink:
    """All metrics of a step, under their names, in ``<folder>/tensorboard``; each is on disk at once."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        directory = folder / "tensorboard"
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (directory / name).open("ab")
        self._write(_bytes(3, VERSION))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        values = b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in metrics.items())
        self._write(_integer(2, step) + _bytes(5, values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = _double(1, time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + masked_checksum(length) + event + masked_checksum(event))


def masked_checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TensorFlow stores it."""
    value = crc32c(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC: b"123456789" -> 0xE3069283."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_entry(byte) for byte in range(256)]


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
