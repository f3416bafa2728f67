from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.report.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, png, write_curve


def read_png(data: bytes) -> np.ndarray:
    """The picture in a greyscale PNG without filters; checks every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack(">I", data[place + 8 + length : place + 12 + length])
        assert zlib.crc32(kind + body) == checksum
        chunks[kind] = body
        place += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_png_holds_the_picture() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(read_png(png(picture)), picture)


def test_a_falling_loss_falls(tmp_path: Path) -> None:
    write_curve(tmp_path / "loss.png", np.linspace(5, 1, 300).tolist(), [(100, 4.0), (300, 1.2)])
    picture = read_png((tmp_path / "loss.png").read_bytes())
    assert picture.shape == (HEIGHT, WIDTH)
    inside = picture[TOP : HEIGHT - BOTTOM, LEFT + 1 : WIDTH - RIGHT - 1]
    darkest = [int(np.argmin(inside[:, column])) for column in (10, inside.shape[1] // 2, inside.shape[1] - 10)]
    assert darkest == sorted(darkest)
    assert darkest[2] - darkest[0] > 200


@given(losses=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_any_losses_can_be_drawn(tmp_path_factory: pytest.TempPathFactory, losses: list[float]) -> None:
    path = tmp_path_factory.mktemp("curve") / "loss.png"
    write_curve(path, losses)
    assert read_png(path.read_bytes()).min() == 0


def test_nothing_to_draw(tmp_path: Path) -> None:
    write_curve(tmp_path / "loss.png", [])
    write_curve(tmp_path / "loss.png", [float("nan")])
    assert not list(tmp_path.iterdir())
