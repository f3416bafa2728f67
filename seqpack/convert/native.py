"""Checkpoints of our own training runs (``SAVE/step-N``) as a source: weights as the ranks of the run held them.

Their names are those of modules in transformers, which keeps all experts of a layer in one tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqpack.convert.dcp import METADATA, StoredTensor, read_metadata
from seqpack.convert.dims import read_config
from seqpack.convert.dist_find import holding
from seqpack.convert.dist_layout import check_whole, chunk_places
from seqpack.convert.families import Join
from seqpack.convert.huggingface import CONFIG
from seqpack.convert.mcore import Model, Parameter
from seqpack.convert.source import Source, check_parameters, read_model
from seqpack.convert.stacks import Stack
from seqpack.convert.tensors import Key, Piece, Tensor, on_grid
from seqpack.convert.verify import Find, Holding
from seqpack.core.errors import CheckpointError, ConfigError

RECORD = "checkpoint.json"
PREFIX = "weight.model."
_STEP = re.compile(r"step-(\d+)")
_EXPERT = re.compile(r"(.+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_FUSED = {
    **dict.fromkeys(("gate_proj", "w1"), ("gate_up_proj", 0)),
    **dict.fromkeys(("up_proj", "w3"), ("gate_up_proj", 1)),
    **dict.fromkeys(("down_proj", "w2"), ("down_proj", 0)),
}
"""Of an expert's matrix: the tensor that has it of all experts, and which matrix of each expert it is there."""


def newest_step(folder: Path) -> Path | None:
    """``folder`` if it is a checkpoint of a run, or the last one in it if it is a run; else None."""
    if (folder / RECORD).is_file():
        return folder
    steps = {int(match[1]): path for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))}
    return steps[max(steps)] if steps else None


def open_native(step: Path, small_files: Sequence[Path]) -> Source:
    """The weights of a checkpoint; the config is in the first of ``small_files`` that has one, or in SAVE/model.

    ConfigError SP407 without a config, SP406 for adapters; CheckpointError SP401 to SP404 if files, config and weights
    do not fit together.
    """
    identity = _identity(step / RECORD)
    if identity.get("LoRA") is not None:
        raise ConfigError(
            "SP406",
            f"{step} holds adapters, and not the model they belong to",
            help="go on with seqpack train --resume to its end: SAVE/adapter is for peft, which can merge it",
        )
    place = next((each for each in (*small_files, step.parent / "model") if (each / CONFIG).is_file()), None)
    if small_files and place != small_files[0]:
        read_config(small_files[0])
    if place is None:
        raise ConfigError(
            "SP407",
            f"{step} does not hold config and tokenizer of its model",
            help="give the directory that was --model with --hf-dir",
        )
    config = read_config(place)
    model = read_model(config)
    metadata = read_metadata(step / METADATA)
    parameters = {name: tensor for name, tensor in metadata.tensors.items() if name.startswith(PREFIX)}
    stacks = module_stacks(model)
    places = chunk_places(step, parameters)
    tensors = list(_tensors(step, stacks, parameters))
    check_parameters(tensors, places, where=str(step))
    notes = ["left out optimizer: only weights are converted"]
    if identity.get("--dtype") == "bfloat16":
        notes.append(
            "weights are the float32 ones that were trained; --params-dtype bf16 writes what the run computed with"
        )
    return Source(
        step,
        model,
        config,
        tensors,
        {tensor.key: on_grid(places[tensor.key], tensor) for tensor in tensors},
        place,
        tuple(notes),
        find=_find(model, stacks, parameters),
        label=step.name,
    )


def _identity(record: Path) -> Mapping[str, Any]:
    """What the run was; CheckpointError SP401 unless all files that the record lists are there as they were."""
    try:
        content = json.loads(record.read_bytes())
        files, identity = dict(content["files"]), dict(content["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "SP401", f"{record} cannot be read: {error}", help="take another step, or copy it again"
        ) from error
    for name, size in files.items():
        path = record.parent / name
        if not path.is_file() or path.stat().st_size != size:
            what = f"has not {size:,} bytes" if path.is_file() else "is missing"
            raise CheckpointError("SP401", f"{path} {what}", help="take another step, or copy it again")
    return identity


def module_stacks(model: Model) -> dict[str, Stack]:
    """Parameters as modules have them: of one Hugging Face tensor, or of those of all experts of a layer."""
    found: dict[str, dict[tuple[int, ...], list[Piece]]] = {}
    vectors = set()
    for name, shape in model.huggingface():
        stack, place, number = _position(name)
        rows, columns = (shape[0], shape[1]) if len(shape) > 1 else (shape[0], 1)
        pieces = found.setdefault(stack, {}).setdefault(place, [])
        pieces.append(Piece(name, 0, 0, rows, columns, number * rows, 0))
        if len(shape) == 1:
            vectors.add(stack)
    stacks = {}
    for name, members in found.items():
        lead = tuple(last + 1 for last in max(members))
        parameters = {
            place: Parameter(Join.COPY, tuple(pieces), sum(p.rows for p in pieces), pieces[0].columns, name in vectors)
            for place, pieces in members.items()
        }
        stacks[name] = Stack(name, lead, parameters)
    return stacks


def _position(name: str) -> tuple[str, tuple[int, ...], int]:
    """Module's tensor, place by expert, and which matrix of that expert it is."""
    if match := _EXPERT.fullmatch(name):
        fused, number = _FUSED[match[3]]
        return f"{PREFIX}{match[1]}.mlp.experts.{fused}", (int(match[2]),), number
    return PREFIX + name.replace(".block_sparse_moe.", ".mlp."), (), 0


def _tensors(step: Path, stacks: Mapping[str, Stack], parameters: Mapping[str, StoredTensor]) -> Sequence[Tensor]:
    tensors = []
    for stack in stacks.values():
        stored = parameters.get(stack.name)
        if stored is None:
            tensors.append(Tensor(Key("", stack.name), stack.shape, ()))
            continue
        check_whole(step, stack, stored)
        tensors += [stack.tensor(box) for box in stored.parts]
    return tensors


def _find(model: Model, stacks: Mapping[str, Stack], parameters: Mapping[str, StoredTensor]) -> Find:
    shapes = dict(model.huggingface())

    def find(name: str) -> Sequence[Holding]:
        stack, place, number = _position(name)
        rows = shapes[name][0]
        return [holding(stacks[stack], list(parameters[stack].parts), place, np.arange(rows) + number * rows)]

    return find
