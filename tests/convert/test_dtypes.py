"""Types become each other as torch makes them, bit by bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from seqpack.convert.dtypes import DType, convert_bits
from seqpack.core.errors import CheckpointError

SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), 1e-40, 1e-7, 1 + 2**-8, 1 + 3 * 2**-9]


def bits_of(tensor: torch.Tensor, dtype: DType) -> np.ndarray:
    return tensor.view(getattr(torch, f"int{8 * dtype.size}")).numpy().view(dtype.bits)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(DType, DType)))
def test_as_torch(source: DType, target: DType) -> None:
    values = torch.cat([torch.tensor(SPECIAL), torch.randn(4000)]).to(getattr(torch, source.torch))
    found = convert_bits(bits_of(values, source), source, target)
    assert np.array_equal(found, bits_of(values.to(getattr(torch, target.torch)), target))


def test_a_nan_stays_one() -> None:
    for target in (DType.BF16, DType.F16, DType.F64):
        found = convert_bits(np.array([0x7F800001, 0xFFFFFFFF], np.uint32), DType.F32, target)
        values = torch.from_numpy(found.view(f"i{target.size}")).view(getattr(torch, target.torch))
        assert values.isnan().all()


def test_every_bfloat16_survives_float32() -> None:
    every = np.arange(65536, dtype=np.uint16)
    number = every[(every & 0x7F80 != 0x7F80) | (every & 0x7F == 0)]
    assert np.array_equal(convert_bits(convert_bits(number, DType.BF16, DType.F32), DType.F32, DType.BF16), number)


@pytest.mark.parametrize(
    ("source", "target"), [(DType.F32, DType.F16), (DType.BF16, DType.F16), (DType.F64, DType.F32)]
)
def test_a_number_that_would_become_infinite_is_refused(source: DType, target: DType) -> None:
    largest = torch.tensor([1e39 if source is DType.F64 else 70000.0], dtype=getattr(torch, source.torch))
    with pytest.raises(CheckpointError, match="infinite") as caught:
        convert_bits(bits_of(largest, source), source, target)
    assert caught.value.code == "SP412"
