"""What a conversion writes: the tensors of the other layout, their types, and the split that flags ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpack.convert.dtypes import BY_FLAG, DType
from seqpack.convert.huggingface import create_safetensors, huggingface_tensors
from seqpack.convert.layouts import Draft, Layout, find_layout
from seqpack.convert.mcore import Experts, Form, Model
from seqpack.convert.megatron_args import make_args, split_again
from seqpack.convert.plan import Plan
from seqpack.convert.request import Request
from seqpack.convert.source import Source
from seqpack.convert.split import SplitRequest, padded_vocab
from seqpack.convert.tensors import Key, Place, Tensor
from seqpack.core.errors import CheckpointError, ConfigError
from seqpack.options.convert import ConvertOptions, MegatronOptions, parse_size

Create = Callable[[Path, Mapping[Key, DType]], Draft]
"""Lay out the files in a folder."""


@dataclass(frozen=True, slots=True)
class Target:
    """``form`` is that of a Megatron checkpoint; None for a Hugging Face directory."""

    tensors: Sequence[Tensor]
    create: Create
    form: Form | None = None
    layout: Layout | None = None


def huggingface_target(options: ConvertOptions, model: Model) -> Target:
    tensors = huggingface_tensors(model)
    size = parse_size(options.max_shard_size)
    return Target(tensors, lambda folder, dtypes: create_safetensors(folder, tensors, dtypes, max_shard_bytes=size))


def megatron_target(request: Request, source: Source) -> Target:
    """ConfigError SP414 if the model cannot be split as the flags say, SP406 for an unknown ``--ckpt-format``."""
    layout = find_layout(request.megatron.ckpt_format)
    form = target_form(request, source)
    tensors = layout.tensors(source.model, form)

    def create(folder: Path, dtypes: Mapping[Key, DType]) -> Draft:
        dtype = next(iter(dtypes.values()))
        if source.args is None:
            args = make_args(dict(source.config), source.model, form, dtype, layout.name)
        else:
            args = split_again(source.args, form, dtype, layout.name)
        return layout.create(folder, tensors, dtypes, args, iteration=0 if request.options.release else 1)

    return Target(tensors, create, form, layout)


def target_form(request: Request, source: Source) -> Form:
    """The form flags ask for; what they leave open is as in the source, if that is a Megatron checkpoint."""
    model, known, flags = source.model, source.form, request.megatron
    split = SplitRequest(
        flags.tp,
        flags.pp,
        flags.ep,
        flags.expert_tp,
        flags.layers_per_virtual_stage,
        request.num_layer_list,
        request.noop_layers,
    ).of(model.dims)
    transformer_engine = known.transformer_engine if known else False
    if flags.transformer_impl is not None:
        transformer_engine = flags.transformer_impl == "transformer_engine"
    experts = known.experts if known else Experts.SEQUENTIAL
    if flags.moe_grouped_gemm:
        experts = Experts.GROUPED if transformer_engine else Experts.JOINED
    return Form(split, _vocab_rows(flags, model), transformer_engine, experts)


def _vocab_rows(flags: MegatronOptions, model: Model) -> int:
    size, rows = model.dims.vocab_size, flags.padded_vocab_size
    if rows is None:
        return padded_vocab(size, multiple=flags.make_vocab_size_divisible_by, tp=flags.tp)
    if rows < size or rows % flags.tp:
        raise ConfigError(
            "SP414",
            f"--padded-vocab-size {rows} does not hold {size} rows in equal parts for TP {flags.tp}",
            help="give a multiple of the tensor-parallel size that is at least the vocabulary, or leave it out",
        )
    return rows


def target_dtypes(plan: Plan, places: Mapping[Key, Place], params_dtype: str | None) -> dict[Key, DType]:
    """The type of every target tensor: ``--params-dtype``, or that of what it is made of.

    CheckpointError SP404 if a tensor is made of several types and no flag says which to take.
    """
    if params_dtype is not None:
        return dict.fromkeys((tensor.key for tensor in plan.targets), BY_FLAG[params_dtype])
    dtypes = {}
    for tensor in plan.targets:
        found = {copy.source: places[copy.source].dtype for copy in plan.copies[tensor.key]}
        if len(set(found.values())) > 1:
            raise CheckpointError(
                "SP404",
                f"{', '.join(key.name for key in found)} differ in dtype "
                f"({', '.join(sorted(dtype.torch for dtype in set(found.values())))}), "
                f"but {tensor.key.name} holds all of them",
                help="choose one with --params-dtype bf16, fp16 or fp32",
            )
        dtypes[tensor.key] = next(iter(found.values()))
    return dtypes
