from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seqpack.attention.contract import AttentionBackend, AttentionNeeds, select_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode

FLASH, *_, REFERENCE = BUILTIN_BACKENDS
SLOW = replace(REFERENCE, on_request=False)


@pytest.mark.parametrize(("name", "chosen"), [("auto", "flash"), ("flash", "flash"), ("reference", "reference")])
def test_choice_on_cpu(name: str, chosen: str) -> None:
    backend = select_attention(name, BUILTIN_BACKENDS, AttentionNeeds("cpu", "float32", MaskMode.BLOCK_CAUSAL))
    assert backend.name == chosen
    assert callable(backend.load())


def test_auto_passes_over_what_cannot_isolate() -> None:
    blind = replace(FLASH, name="blind", masks=frozenset({MaskMode.CAUSAL}))
    backends = (blind, SLOW)
    for mask, chosen in ((MaskMode.BLOCK_CAUSAL, SLOW), (MaskMode.CAUSAL, blind)):
        assert select_attention("auto", backends, AttentionNeeds("cpu", "float32", mask)) is chosen


@pytest.mark.parametrize(
    ("backend", "needs", "reason"),
    [
        (replace(FLASH, windows=False), {"window": True}, "no sliding window"),
        (replace(FLASH, grouped_heads=False), {"grouped": True}, "as many key heads"),
        (replace(FLASH, max_head_size=64), {"head_size": 72}, "heads of 72"),
        (replace(FLASH, head_size_multiple=8), {"head_size": 12}, "heads of 12"),
        (replace(FLASH, missing=lambda: "needs a package"), {}, "needs a package"),
    ],
)
def test_each_capability_counts(backend: AttentionBackend, needs: dict[str, Any], reason: str) -> None:
    asked = AttentionNeeds("cpu", "float32", MaskMode.BLOCK_CAUSAL, **needs)
    assert FLASH.lacks(asked) == ""
    assert reason in backend.lacks(asked)
    assert select_attention("auto", (backend, SLOW), asked) is SLOW
    with pytest.raises(ConfigError, match=reason):
        select_attention("flash", (backend, REFERENCE), asked)


def test_if_nothing_isolates_training_stops() -> None:
    blind = replace(FLASH, name="blind", masks=frozenset({MaskMode.CAUSAL}))
    with pytest.raises(ConfigError, match="nothing here keeps samples apart: blind cannot") as raised:
        select_attention("auto", (blind,), AttentionNeeds("cpu", "float32", MaskMode.BLOCK_CAUSAL))
    assert raised.value.code == "SP201"


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
        select_attention(name, (blind, FLASH), AttentionNeeds(device, dtype, MaskMode.BLOCK_CAUSAL))
    assert raised.value.code == "SP201"


@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_a_dense_mask_is_never_chosen_in_silence(device: str) -> None:
    needs = AttentionNeeds(device, "float32", MaskMode.BLOCK_CAUSAL)
    with pytest.raises(ConfigError, match="nothing here keeps samples apart"):
        select_attention("auto", BUILTIN_BACKENDS, needs)
    assert select_attention("reference", BUILTIN_BACKENDS, needs) is REFERENCE
