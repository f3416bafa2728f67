"""The attention backends that come with seqpack, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.attention.contract import AttentionBackend
from seqpack.core.types import MaskMode

if TYPE_CHECKING:
    from seqpack.attention.contract import VarlenAttention


def _load_cpu_flash() -> VarlenAttention:
    from seqpack.attention.cpu import cpu_flash_attention

    return cpu_flash_attention


def _load_reference() -> VarlenAttention:
    from seqpack.attention.reference import reference_attention

    return reference_attention


BUILTIN_BACKENDS = (
    AttentionBackend(
        name="flash",
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16", "float64"}),
        masks=frozenset(MaskMode),
        load=_load_cpu_flash,
    ),
    AttentionBackend(
        name="reference",
        devices=frozenset({"cpu", "cuda", "npu"}),
        dtypes=frozenset({"float32", "bfloat16", "float64"}),
        masks=frozenset(MaskMode),
        load=_load_reference,
    ),
)
