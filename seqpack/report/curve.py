"""The loss curve of a run as a PNG, drawn here: a plotting library would be the largest package of all.

Coordinates are pixels from the top left, colours 0 (black) to 255 (white).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 20, 40
SCALE = 2
"""Pixels of a dot of the font."""
SMOOTHED = 0.9
"""Share of the past in the thick line; the thin one is every step."""
GLYPHS = {
    "0": "###|# #|# #|# #|###",
    "1": " # |## | # | # |###",
    "2": "###|  #|###|#  |###",
    "3": "###|  #| ##|  #|###",
    "4": "# #|# #|###|  #|  #",
    "5": "###|#  |###|  #|###",
    "6": "###|#  |###|# #|###",
    "7": "###|  #|  #| # | # ",
    "8": "###|# #|###|# #|###",
    "9": "###|# #|###|  #|###",
    ".": "   |   |   |   | # ",
    "-": "   |   |###|   |   ",
    "e": "   |###|###|#  |###",
    "+": "   | # |###| # |   ",
}


def write_curve(path: Path, losses: Sequence[float], evaluations: Sequence[tuple[int, float]] = ()) -> None:
    """Draw the losses of steps 1, 2, ... and, as squares, those of ``(step, loss)`` on held-out rows."""
    values = np.array([*losses, *(loss for _, loss in evaluations)], np.float64)
    if not len(losses) or not np.isfinite(values).all():
        return
    picture = np.full((HEIGHT, WIDTH), 255, np.uint8)
    low, high = _limits(values)
    steps = np.arange(1, len(losses) + 1)
    for tick in np.linspace(low, high, 5):
        y = int(_row(np.array([tick]), low, high)[0])
        picture[y, LEFT : WIDTH - RIGHT] = 225
        _text(picture, f"{tick:.3g}", right=LEFT - 8, top=y - 5)
    for step in np.unique(np.linspace(1, len(losses), 6).astype(int)):
        x = int(_column(np.array([step]), len(losses))[0])
        picture[HEIGHT - BOTTOM : HEIGHT - BOTTOM + 5, x] = 0
        _text(picture, str(step), right=min(x + 12, WIDTH - 2), top=HEIGHT - BOTTOM + 10)
    picture[TOP : HEIGHT - BOTTOM, LEFT] = picture[HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT] = 0
    columns = _column(steps, len(losses))
    _line(picture, columns, _row(np.array(losses), low, high), shade=185)
    _line(picture, columns, _row(_smooth(losses), low, high), shade=0, thick=2)
    for step, loss in evaluations:
        x, y = int(_column(np.array([step]), len(losses))[0]), int(_row(np.array([loss]), low, high)[0])
        picture[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = 90
    path.write_bytes(png(picture))


def png(picture: NDArray[np.uint8]) -> bytes:
    """A greyscale PNG of ``[height, width]``."""
    height, width = picture.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture], axis=1)  # each row begins with its filter, none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _column(steps: NDArray[np.integer], num_steps: int) -> NDArray[np.float64]:
    return LEFT + (steps - 1) / max(num_steps - 1, 1) * (WIDTH - LEFT - RIGHT - 1)


def _row(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return HEIGHT - BOTTOM - (values - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Mean of the past, weighted towards the last steps, which starts at the first loss."""
    smoothed = np.empty(len(losses))
    value = losses[0]
    for step, loss in enumerate(losses):
        value = SMOOTHED * value + (1 - SMOOTHED) * loss
        smoothed[step] = value
    return smoothed


def _line(
    picture: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64], *, shade: int, thick: int = 1
) -> None:
    """Through all points, as dots so close that they touch."""
    dots = np.linspace(0, len(x) - 1, max(8 * WIDTH, 4 * len(x)))
    columns, rows = (np.interp(dots, np.arange(len(x)), values).round().astype(int) for values in (x, y))
    for offset in range(thick):
        picture[np.clip(rows + offset, 0, HEIGHT - 1), columns] = shade


def _text(picture: NDArray[np.uint8], text: str, *, right: int, top: int) -> None:
    glyphs = [np.array([[dot == "#" for dot in row] for row in GLYPHS[letter].split("|")]) for letter in text]
    dots = np.concatenate([np.pad(glyph, ((0, 0), (0, 1))) for glyph in glyphs], axis=1)
    dots = dots.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    left = max(0, right - dots.shape[1])
    part = picture[max(top, 0) : top + dots.shape[0], left : left + dots.shape[1]]
    part[dots[: part.shape[0], : part.shape[1]]] = 0
