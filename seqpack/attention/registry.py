"""The attention backends that come with seqpack, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.attention.contract import AttentionBackend
from seqpack.core.types import MaskMode

if TYPE_CHECKING:
    from seqpack.attention.contract import PartialAttention, VarlenAttention
    from seqpack.attention.npu import NpuAttention


def _load_cpu_flash() -> VarlenAttention:
    from seqpack.attention.cpu import cpu_flash_attention

    return cpu_flash_attention


def _load_reference() -> VarlenAttention:
    from seqpack.attention.reference import reference_attention

    return reference_attention


def _load_cpu_partial() -> PartialAttention:
    from seqpack.attention.cpu import CpuPartial

    return CpuPartial()


def _load_reference_partial() -> PartialAttention:
    from seqpack.attention.reference import ReferencePartial

    return ReferencePartial()


def _load_torch_varlen() -> VarlenAttention:
    from seqpack.attention.cuda import torch_varlen_attention

    return torch_varlen_attention


def _load_flash_attn() -> VarlenAttention:
    from seqpack.attention.cuda import flash_attn_attention

    return flash_attn_attention


def _load_npu() -> NpuAttention:
    import torch

    from seqpack.attention.npu import NpuAttention

    return NpuAttention(torch.ops.npu)


def _missing_torch_varlen() -> str:
    from seqpack.attention.cuda import missing_torch_varlen

    return missing_torch_varlen()


def _missing_flash_attn() -> str:
    from seqpack.attention.cuda import missing_flash_attn

    return missing_flash_attn()


def _missing_npu() -> str:
    from seqpack.attention.npu import missing_npu_attention

    return missing_npu_attention()


BUILTIN_BACKENDS = (
    AttentionBackend(
        name="flash",
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16", "float64"}),
        masks=frozenset(MaskMode),
        load=_load_cpu_flash,
        load_partial=_load_cpu_partial,
    ),
    AttentionBackend(
        name="varlen",
        devices=frozenset({"cuda"}),
        dtypes=frozenset({"bfloat16", "float16"}),
        masks=frozenset(MaskMode),
        load=_load_torch_varlen,
        max_head_size=256,
        head_size_multiple=8,
        missing=_missing_torch_varlen,
    ),
    AttentionBackend(
        name="flash-attn",
        devices=frozenset({"cuda"}),
        dtypes=frozenset({"bfloat16", "float16"}),
        masks=frozenset(MaskMode),
        load=_load_flash_attn,
        max_head_size=256,
        head_size_multiple=8,
        missing=_missing_flash_attn,
    ),
    AttentionBackend(
        name="npu",
        devices=frozenset({"npu"}),
        dtypes=frozenset({"bfloat16", "float16", "float32"}),
        masks=frozenset(MaskMode),
        load=_load_npu,
        max_head_size=768,
        missing=_missing_npu,
        load_partial=_load_npu,
    ),
    AttentionBackend(
        name="reference",
        devices=frozenset({"cpu", "cuda", "npu"}),
        dtypes=frozenset({"float32", "bfloat16", "float64"}),
        masks=frozenset(MaskMode),
        load=_load_reference,
        load_partial=_load_reference_partial,
        on_request=True,
    ),
)
