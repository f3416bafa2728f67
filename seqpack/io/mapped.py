"""Memory-mapped arrays that do not fill the memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_array(path: Path, dtype: np.dtype[Any] | str, *, random: bool = False) -> NDArray[Any]:
    """A flat file as a read-only array. With ``random``, reading an item brings in no more than its page."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    array: NDArray[Any] = np.memmap(path, dtype, mode="r").view(np.ndarray)  # a memmap takes 1 us to slice
    if random:
        _advise(array, mmap.MADV_RANDOM)
    return array


def forget_pages(*arrays: NDArray[Any]) -> None:
    """Give back the memory that reading mapped files took: else it grows to the size of the files."""
    for array in arrays:
        _advise(array, mmap.MADV_DONTNEED)


def _advise(array: NDArray[Any], advice: int) -> None:
    base: object = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(advice)
