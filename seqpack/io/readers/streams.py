"""Files of text as lines or as chunks, compressed or not, with the place of whatever is wrong in them."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from seqpack.core.errors import DataError
from seqpack.io.readers.record import Part

MAX_ROW_BYTES = 256 << 20
"""Longer lines and elements are refused: a file without line ends must not fill the memory."""

CHUNK_BYTES = 1 << 18
BLOCK_BYTES = 1 << 17
"""Of lines that are parsed together; the values of JSON take some ten times as much."""


def unreadable(path: Path, after: str, error: BaseException | str) -> DataError:
    """The error for a file that ends or breaks where it should not."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
    return DataError("SP103", f"{path}: unreadable after {after} ({reason})", help="check the file, or make it again")


def text_lines(path: Path, part: Part | None = None) -> Iterator[tuple[int, str]]:
    """Lines with their ends (``\\n``) and their numbers from 1; a byte order mark is taken off.

    ``part`` limits it to some bytes of a file that is not compressed.

    DataError naming file:line if the file cannot be read, a line is not UTF-8, or longer than ``MAX_ROW_BYTES``.
    """
    for number, line in byte_lines(path, part):
        if text := decode_line(path, number, line):
            yield number, text


def decode_line(path: Path, number: int, line: bytes) -> str:
    """The text of line ``number``, the first without a byte order mark; DataError if it is not UTF-8."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, line if number == 1 else b"", error) from error
    return text.removeprefix("\ufeff") if number == 1 else text


def text_chunks(path: Path) -> Iterator[str]:
    """The text of a file in pieces of no particular length, without a byte order mark. Errors as ``text_lines``."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, start = 1, b""
    with _stream(path, lambda: f"line {line if start else 0}") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            text = _decode(decoder, chunk, path, line, start or chunk)
            yield text if start else text.removeprefix("\ufeff")
            line += text.count("\n")
            start = start or chunk
    _decode(decoder, b"", path, line, start)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, path: Path, line: int, start: bytes) -> str:
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise _not_utf8(path, line, start if line == 1 else b"", error) from error


def byte_lines(path: Path, part: Part | None = None) -> Iterator[tuple[int, bytes]]:
    """As ``text_lines``, before decoding."""
    for number, lines in line_blocks(path, part):
        yield from enumerate(lines, number)


def line_blocks(path: Path, part: Part | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """As ``byte_lines``, as many lines at a time as one read of the file brings, with the number of the first."""
    part = part or Part()
    number, place = part.first_line, part.start
    held: list[bytes] = []  # the beginning of a line of which more is to come
    with _stream(path, lambda: f"line {number - 1}") as stream:
        if part.start:
            stream.seek(part.start)
        while block := stream.read1(BLOCK_BYTES if part.end is None else min(BLOCK_BYTES, part.end - place)):
            place += len(block)
            end = block.rfind(b"\n") + 1
            if end:
                lines = io.BytesIO(b"".join([*held, block[:end]])).readlines()
                yield number, _short_ones(lines, path, number)
                number += len(lines)
                held = []
            held.append(block[end:])
            if sum(map(len, held)) > MAX_ROW_BYTES:
                raise too_long(path, number)
        if rest := b"".join(held):
            yield number, _short_ones([rest], path, number)


def _short_ones(lines: list[bytes], path: Path, number: int) -> list[bytes]:
    """The lines, of which ``number`` is the first; DataError if one of them is too long."""
    for length in map(len, lines):
        if length > MAX_ROW_BYTES:
            raise too_long(path, number)
        number += 1
    return lines


def too_long(path: Path, line: int) -> DataError:
    size = f"{MAX_ROW_BYTES >> 20} MiB"
    return DataError("SP103", f"{path}:{line} is longer than {size}", help="split that row, or put line ends between")


def _not_utf8(path: Path, line: int, start: bytes, error: UnicodeDecodeError) -> DataError:
    """``start`` is how the file begins, if that may tell what it is instead."""
    help = "save the file as UTF-8, or mend that line"
    if start.startswith(b"\x1f\x8b"):
        help = "the file is compressed: give its name the ending .gz"
    elif start.startswith(b"\x28\xb5\x2f\xfd"):
        help = "the file is compressed: give its name the ending .zst"
    elif start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        help = "the file is UTF-16: save it as UTF-8"
    byte = error.object[error.start]
    return DataError("SP103", f"{path}:{line} is not UTF-8 text (byte 0x{byte:02x})", help=help)


@contextlib.contextmanager
def _stream(path: Path, where: Callable[[], str]) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed; ``where()`` says how far reading has come, for the error message."""
    try:
        with OPENERS.get(path.suffix.lower(), _open_plain)(path) as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, where(), error) from error


def _open_plain(path: Path) -> io.BufferedReader:
    return path.open("rb")


def _open_gzip(path: Path) -> io.BufferedReader:
    _check_not_empty(path)
    # wrapped once more, since GzipFile's own readline is Python code
    return io.BufferedReader(gzip.GzipFile(path), CHUNK_BYTES)


def _open_zstd(path: Path) -> io.BufferedReader:
    import pyarrow as pa

    _check_not_empty(path)
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), CHUNK_BYTES)


def _check_not_empty(path: Path) -> None:
    # Both decompressors take it for an empty text, but even an empty text takes some bytes when compressed.
    if not path.stat().st_size:
        raise EOFError("the file has no bytes at all, it was not written to its end")


OPENERS: dict[str, Callable[[Path], io.BufferedReader]] = {".gz": _open_gzip, ".zst": _open_zstd}
"""How the bytes of a compressed file are read; the keys are endings of its name."""
