"""A model is built without memory, cut into pieces, and only then given its weights: no process holds it whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from seqpack.models.checkpoint_source import CheckpointSource
from seqpack.models.fill import fill, lacking
from seqpack.models.lora import AdapterSource, is_adapter, name_without_adapter
from seqpack.models.packed import ATTENTION_NAME, register_attention
from seqpack.models.roles import FAMILIES
from seqpack.models.sources import MemorySource, RandomSource, TensorSource, by_module, file_source
from seqpack.models.whole import unreadable, whole_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seqpack.models.load import ModelSpec

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def empty_model(spec: ModelSpec, dtype: torch.dtype) -> Any:
    """The model of transformers with our attention, in training mode and without memory (device "meta")."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    register_attention()
    if dtype is torch.float64:
        spec.config._experts_implementation = "eager"  # the fast one does not compute in float64
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(spec.config, dtype=dtype, attn_implementation=ATTENTION_NAME)
    if not spec.random_weights and spec.directory and (spec.directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(spec.directory, local_files_only=True)
    return model.train()


def materialize(
    root: nn.Module, model: Any, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, seed: int
) -> None:
    """Give memory and weights to ``root``, whose part ``model`` came from ``empty_model``; both may be in pieces.

    ``model`` may have lost layers to other ranks and may have adapters. Every rank calls this; nothing is exchanged.
    Random weights are numbers of ``dtype`` that depend on ``seed`` and their name alone. Raises CheckpointError SP206
    for weights that are missing, of another shape, or cannot be read.
    """
    from safetensors import SafetensorError

    shared = _shared_parameters(root)
    root.to_empty(device=device)
    for (module, last), (owner, original) in shared:
        module._parameters[last] = owner._parameters[original]
    parameters = dict(model.named_parameters())
    adapters = {name: parameter for name, parameter in parameters.items() if is_adapter(name)}
    weights = {name_without_adapter(name): parameters[name] for name in parameters.keys() - adapters.keys()}
    if model.config.tie_word_embeddings and HEAD in weights:  # a pipeline has it apart from the embedding
        weights[EMBEDDING] = weights.pop(HEAD)
    weights = {name: weights[name] for name in sorted(weights)}
    try:
        source = _source(spec, weights, dtype, seed)
        fill(weights, source)
    except (OSError, SafetensorError) as error:
        raise unreadable(spec, error) from error
    fill(adapters, AdapterSource(adapters, seed))
    _fill_buffers(model, spec, source)


def _shared_parameters(root: nn.Module) -> list[tuple[tuple[nn.Module, str], tuple[nn.Module, str]]]:
    """Where a parameter stands a second time (a tied output layer), and where it stands first."""
    first: dict[int, tuple[nn.Module, str]] = {}
    again = []
    for module in root.modules():
        for last, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) in first:
                again.append(((module, last), first[id(parameter)]))
            first.setdefault(id(parameter), (module, last))
    return again


def _source(spec: ModelSpec, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, seed: int) -> TensorSource:
    """Parts of files, of a Megatron checkpoint or of random numbers for the families we know, else the whole model."""
    if spec.model_type in FAMILIES and spec.random_weights:
        return RandomSource(empty_model(spec, dtype), dtype, seed)
    if spec.checkpoint is not None and spec.directory is not None:
        return by_module(CheckpointSource(spec.checkpoint, spec.directory), spec.config)
    if spec.model_type in FAMILIES and spec.directory is not None:
        files = file_source(spec.directory, spec.config)
        if not lacking(weights, files):
            return files
    whole = whole_model(spec, dtype, seed)
    return MemorySource(dict(whole.named_parameters()) | dict(whole.named_buffers()))


def _fill_buffers(model: Any, spec: ModelSpec, source: TensorSource) -> None:
    """Buffers, such as the frequencies of the rotation, are in no file: the model computes them from its config."""
    if isinstance(source, MemorySource):
        fill(dict(model.named_buffers()), source)
        return
    rule = empty_model(spec, torch.float32)
    for module in model.modules():
        buffers = [buffer for buffer in module._buffers.values() if buffer is not None]
        if not buffers:
            continue
        for buffer in buffers:
            buffer.fill_(torch.nan)
        rule._init_weights(module)
        assert not any(buffer.isnan().any() for buffer in buffers), f"{type(module).__name__} leaves buffers empty"
