"""PNG files by a reader of our own; the two masks cannot be taken for each other."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DeviceError
from seqpack.core.segments import cu_seqlens_from_lengths
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.report.png import FRAME, OTHERS, PADDING, PAPER, mask_pixels, write_mask, write_png


def read_png(content: bytes) -> np.ndarray:
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, {}
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        data = content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def pack(lengths: list[int], padding: int = 0) -> PackedSequence:
    total = sum(lengths) + padding
    ids = np.zeros(total, np.int32)
    return PackedSequence(ids, ids, cu_seqlens_from_lengths([*lengths, *([padding] if padding else [])]), padding)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_what_is_written_is_read(tmp_path_factory, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("png") / "x.png"
    write_png(path, pixels)
    assert np.array_equal(read_png(path.read_bytes()), pixels)


def colours(pixels: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in pixels[FRAME:-FRAME, FRAME:-FRAME].reshape(-1, 3).tolist()}


@pytest.mark.parametrize("mask", MaskMode)
def test_each_pixel_is_what_its_query_sees(mask):
    pixels = mask_pixels(pack([3, 2], padding=1), mask)[FRAME:-FRAME, FRAME:-FRAME]
    size = len(pixels) // 6
    cells = pixels[size // 2 :: size, size // 2 :: size]
    for query in range(6):
        for key in range(6):
            colour, same = tuple(cells[query, key].tolist()), (query < 3) == (key < 3)
            if max(query, key) == 5:
                assert colour == PADDING
            elif key > query or (not same and mask is MaskMode.BLOCK_CAUSAL):
                assert colour == PAPER
            elif not same:
                assert colour == OTHERS
            else:
                assert colour not in (PAPER, OTHERS, PADDING)


def test_only_a_causal_mask_shows_other_samples():
    assert OTHERS in colours(mask_pixels(pack([600, 400, 40]), MaskMode.CAUSAL))
    assert OTHERS not in colours(mask_pixels(pack([600, 400, 40]), MaskMode.BLOCK_CAUSAL))


def test_a_long_pack_makes_no_larger_picture():
    assert mask_pixels(pack([5000, 5000]), MaskMode.CAUSAL).shape == (784, 784, 3)


def test_other_endings_and_folders_are_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"end the name with \.png"):
        write_mask(tmp_path / "mask.jpg", pack([2]), MaskMode.CAUSAL)
    with pytest.raises(DeviceError, match="cannot be written"):
        write_mask(tmp_path / "none" / "mask.png", pack([2]), MaskMode.CAUSAL)
    assert list(tmp_path.iterdir()) == []
