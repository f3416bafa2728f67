"""Pictures as PNG files, written with the standard library alone: a mask needs no text and no curves."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import ConfigError, DeviceError
from seqpack.core.segments import Segments
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.pipeline.show import mask_shares

PIXELS = 768
FRAME = 8
PAPER, INK, PADDING = (255, 255, 255), (70, 70, 70), (232, 232, 232)
SAMPLES = ((31, 119, 180), (44, 160, 44), (148, 103, 189), (23, 140, 160), (110, 90, 60))
"""Colours of the samples of a pack in turn: what a token sees of its own sample."""
OTHERS = (255, 140, 40)
"""What a token sees of other samples: nothing under block-causal, most of it under causal."""


def write_mask(path: Path, sequence: PackedSequence, mask: MaskMode) -> str:
    """Draw the mask of one pack; returns a sentence about the picture. Rows are queries, columns keys.

    Raises ConfigError for another ending than ``.png``, DeviceError if the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError("SP001", f"--mask-png {path}: the picture is a PNG", help="end the name with .png")
    write_png(path, mask_pixels(sequence, mask))
    cell = len(sequence) / min(PIXELS, len(sequence))
    return (
        f"wrote {path}: rows attend to columns, {cell:.4g} tokens in each cell; a colour for each sample, orange where "
        "a sample sees another one, grey for padding"
    )


def mask_pixels(sequence: PackedSequence, mask: MaskMode) -> NDArray[np.uint8]:
    """The picture, uint8 ``[height, width, 3]``. Cost: tokens times cells."""
    cells = min(PIXELS, len(sequence))
    own = mask_shares(Segments(sequence.cu_seqlens), num_padding=sequence.num_padding, cells=cells)
    seen = mask_shares(Segments(sequence.cu_seqlens, mask), num_padding=sequence.num_padding, cells=cells)
    edges = np.linspace(0, len(sequence), cells + 1).round().astype(np.int64)
    owner = np.searchsorted(sequence.cu_seqlens, edges[:-1], side="right") - 1
    colours = np.array(SAMPLES, np.float64)[owner % len(SAMPLES)]
    picture = np.full((cells, cells, 3), PAPER, np.float64)
    is_padding = edges[:-1] >= len(sequence) - sequence.num_padding
    picture[is_padding[:, None] | is_padding[None, :]] = PADDING
    # cells on the diagonal of a triangle are half full; drawn as they are, edges come out smooth
    picture += own[..., None] * (colours[None, :] - picture)
    picture += np.clip(seen - own, 0, 1)[..., None] * (np.array(OTHERS) - picture)
    enlarged = picture.round().astype(np.uint8)
    factor = max(1, PIXELS // cells)
    enlarged = enlarged.repeat(factor, axis=0).repeat(factor, axis=1)
    framed = np.full((enlarged.shape[0] + 2 * FRAME, enlarged.shape[1] + 2 * FRAME, 3), PAPER, np.uint8)
    framed[FRAME - 1 : 1 - FRAME, FRAME - 1 : 1 - FRAME] = INK
    framed[FRAME:-FRAME, FRAME:-FRAME] = enlarged
    return framed


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write uint8 ``[height, width, 3]``; the file appears whole or not at all. DeviceError SP503 if it cannot."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with the number of its filter, 0
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of RGB, not interlaced
    content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    content += _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + _chunk(b"IEND", b"")
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Put a small file in its place by a rename. DeviceError SP503 if it cannot be written."""
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise DeviceError("SP503", f"{path} cannot be written: {error.strerror}", help="check the folder") from error


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
