from __future__ import annotations

from dataclasses import replace

import pytest

from seqpack.attention.contract import select_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode

FLASH, REFERENCE = BUILTIN_BACKENDS


@pytest.mark.parametrize(("name", "chosen"), [("auto", "flash"), ("flash", "flash"), ("reference", "reference")])
def test_choice_on_cpu(name: str, chosen: str) -> None:
    backend = select_attention(name, BUILTIN_BACKENDS, device="cpu", dtype="float32", mask=MaskMode.BLOCK_CAUSAL)
    assert backend.name == chosen
    assert callable(backend.load())


def test_auto_passes_over_what_cannot_isolate() -> None:
    blind = replace(FLASH, name="blind", masks=frozenset({MaskMode.CAUSAL}))
    backends = (blind, REFERENCE)
    wanted = {"device": "cpu", "dtype": "float32"}
    assert select_attention("auto", backends, **wanted, mask=MaskMode.BLOCK_CAUSAL) is REFERENCE
    assert select_attention("auto", backends, **wanted, mask=MaskMode.CAUSAL) is blind


@pytest.mark.parametrize(
    ("name", "device", "dtype", "reason"),
    [
        ("blind", "cpu", "float32", "blind cannot apply the block-causal mask"),
        ("flash", "cuda", "float32", "flash does not run on cuda"),
        ("flash", "cpu", "float16", "flash does not compute in float16"),
        ("flsh", "cpu", "float32", "there are: blind, flash"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, device: str, dtype: str, reason: str) -> None:
    blind = replace(FLASH, name="blind", masks=frozenset({MaskMode.CAUSAL}))
    with pytest.raises(ConfigError, match=reason) as raised:
        select_attention(name, (blind, FLASH), device=device, dtype=dtype, mask=MaskMode.BLOCK_CAUSAL)
    assert raised.value.code == "SP201"
