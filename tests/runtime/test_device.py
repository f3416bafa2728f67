from __future__ import annotations

import pytest
import torch

from seqpack.core.errors import DeviceError
from seqpack.runtime.device import select_device


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_cpu(name: str) -> None:
    backend = select_device(name, num_threads=torch.get_num_threads())
    assert backend.device == torch.device("cpu")
    backend.synchronize()
    assert 2**20 < backend.peak_memory() < 2**40


def test_seed_decides_random_numbers() -> None:
    backend = select_device("cpu")
    backend.seed(7)
    first = torch.rand(3)
    backend.seed(7)
    assert torch.equal(first, torch.rand(3))


def test_other_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="tpu is not available") as raised:
        select_device("tpu")
    assert raised.value.code == "SP501"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match="cuda is not available here") as raised:
        select_device("cuda")
    assert raised.value.code == "SP501"
