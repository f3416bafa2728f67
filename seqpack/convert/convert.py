"""Convert a model between Hugging Face's layout and Megatron-core's, exactly, one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from seqpack import __version__
from seqpack.convert.dims import ModelDims, read_config, read_dims, read_rope
from seqpack.convert.families import EMBEDDING, HEAD, Family, Parameter, find_family, parameters
from seqpack.convert.huggingface import CONFIG, HuggingFaceModel, copy_small_files, same_bytes, write_safetensors
from seqpack.convert.mapping import AsHuggingFace, AsMegatron, TensorSource, check_parameters
from seqpack.convert.megatron import (
    RANK_FILE,
    TRACKER,
    MegatronCheckpoint,
    find_rank_file,
    iteration_folder,
    tracker_text,
    write_checkpoint,
)
from seqpack.convert.megatron_args import check_args, make_args
from seqpack.convert.output import huggingface_target, refuse_existing, write_manifest, written_aside
from seqpack.convert.verify import verify
from seqpack.core.errors import CheckpointError, ConfigError
from seqpack.core.progress import Progress, no_progress
from seqpack.options.convert import ConvertOptions, parse_size

SMALL_FILES_FOLDER = "hf"
"""Inside a Megatron checkpoint: config and tokenizer of the model, which the way back needs."""


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was done; ``num_tensors`` and ``num_bytes`` count what was written, ``notes`` what was left out and why."""

    output: Path
    family: str
    num_tensors: int
    num_bytes: int
    dtypes: tuple[str, ...]
    seconds: float
    verified: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model directory's config and what follows from it."""

    config: dict[str, Any]
    family: Family
    dims: ModelDims
    plan: tuple[Parameter, ...]

    @classmethod
    def read(cls, folder: Path) -> _Model:
        config = read_config(folder)
        family, dims = find_family(config), read_dims(config)
        return cls(config, family, dims, tuple(parameters(family, dims)))


def convert_weights(options: ConvertOptions, progress: Progress = no_progress) -> ConvertReport:
    """Read ``options.source``, write the other layout, read it back, publish it.

    Raises ConfigError and CheckpointError before anything is written, except SP408 (verification), which publishes
    nothing. DeviceError (SP503) if the disk is full.
    """
    return _to_megatron(options, progress) if options.to == "mcore" else _to_huggingface(options, progress)


def _to_megatron(options: ConvertOptions, progress: Progress) -> ConvertReport:
    started = perf_counter()
    model = _Model.read(options.source)
    refuse_existing(options.output, overwrite=options.overwrite)
    source = HuggingFaceModel(options.source)
    dropped = _rotary_tensors(source) | _tied_head(source, model.dims, EMBEDDING.parts[0].name, HEAD.parts[0].name)
    expected = {name: shape for p in model.plan for name, shape in zip(p.huggingface, p.shapes, strict=True)}
    _check(source, expected, dropped, str(options.source))
    tensors = AsMegatron(source, model.plan, model.dims)
    args = make_args(model.config, model.family, model.dims, tensors.specs[EMBEDDING.megatron].dtype)

    with written_aside(options.output, last=TRACKER, keep=options.source) as folder:
        path = folder / iteration_folder(release=options.release) / RANK_FILE
        path.parent.mkdir(parents=True)
        with progress("write", len(tensors.specs), "tensors") as advance:
            write_checkpoint(tensors, path, args=args, iteration=0 if options.release else 1, advance=advance)
        copy_small_files(options.source, folder / SMALL_FILES_FOLDER)
        digests = _verify(source, MegatronCheckpoint(path), model.dims, dropped, progress) if options.verify else {}
        write_manifest(folder, TRACKER, _facts(options, model, digests))
        (folder / TRACKER).write_text(tracker_text(release=options.release), encoding="utf-8")
    notes = (*_left_out(dropped), *_rope_note(model.config))
    return _report(options.output, model, tensors, started, options.verify, notes)


def _to_huggingface(options: ConvertOptions, progress: Progress) -> ConvertReport:
    started = perf_counter()
    rank_file = find_rank_file(options.source)
    small_files = _find_small_files(options, rank_file)
    model = _Model.read(small_files)
    target = huggingface_target(options.output)
    refuse_existing(target, overwrite=options.overwrite)
    source = MegatronCheckpoint(rank_file)
    check_args(source.args, model.dims)
    dropped = _tied_head(source, model.dims, EMBEDDING.megatron, HEAD.megatron)
    _check(source, {p.megatron: p.shape for p in model.plan}, dropped, str(rank_file))
    tensors = AsHuggingFace(source, model.plan, model.dims)

    with written_aside(target, last=CONFIG, keep=options.source) as folder:
        with progress("write", len(tensors.specs), "tensors") as advance:
            write_safetensors(tensors, folder, max_shard_bytes=parse_size(options.max_shard_size), advance=advance)
        copy_small_files(small_files, folder)
        digests = _verify(HuggingFaceModel(folder), source, model.dims, dropped, progress) if options.verify else {}
        write_manifest(folder, CONFIG, _facts(options, model, digests))
    return _report(target, model, tensors, started, options.verify, _left_out(dropped))


def _find_small_files(options: ConvertOptions, rank_file: Path) -> Path:
    """Where config.json and the tokenizer come from on the way back; ConfigError (SP407) if there is no such place."""
    if options.hf_dir is not None:
        return options.hf_dir
    save = rank_file.parents[2]
    # MindSpeed-LLM's users name the original model directory as --save-dir, for this very purpose
    for folder in (save / SMALL_FILES_FOLDER, options.output):
        if (folder / CONFIG).is_file():
            return folder
    raise ConfigError(
        "SP407",
        f"{save} has no {SMALL_FILES_FOLDER}/{CONFIG}, so the model's config and tokenizer are unknown",
        help="give the directory of the original model with --hf-dir",
    )


def _rotary_tensors(source: HuggingFaceModel) -> set[str]:
    """Tables that old versions of transformers stored; they follow from the config."""
    return {
        name for name in source.specs if re.fullmatch(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", name)
    }


def _tied_head(source: TensorSource, dims: ModelDims, embedding: str, head: str) -> set[str]:
    """The head of a tied model, if it is stored although it is the embedding; CheckpointError (SP405) if it is not."""
    if not dims.tied or head not in source.specs or embedding not in source.specs:
        return set()
    if not same_bytes(source.read(head), source.read(embedding)):
        raise CheckpointError(
            "SP405",
            f"config.json says tie_word_embeddings, but {head} differs from {embedding}",
            help='if they were trained apart, set "tie_word_embeddings": false in config.json',
        )
    return {head}


def _check(source: TensorSource, expected: Mapping[str, tuple[int, ...]], dropped: set[str], where: str) -> None:
    found = {name: spec for name, spec in source.specs.items() if name not in dropped}
    lacks_head = {HEAD.megatron, HEAD.parts[0].name} & (expected.keys() - found.keys())
    hint = 'if the head shares the embedding, set "tie_word_embeddings": true in config.json' if lacks_head else ""
    check_parameters(expected, found, where=where, hint=hint)


def _verify(
    model: HuggingFaceModel, checkpoint: MegatronCheckpoint, dims: ModelDims, dropped: set[str], progress: Progress
) -> dict[str, str]:
    with progress("verify", len(model.specs), "tensors") as advance:
        return verify(model, checkpoint, dims, without=dropped, advance=advance)


def _left_out(dropped: set[str]) -> tuple[str, ...]:
    tables = sum(name.endswith("inv_freq") for name in dropped)
    notes = [f"left out {tables} rotary inv_freq tables: they follow from the config"] if tables else []
    notes += [f"left out {name}: it equals the embedding" for name in sorted(dropped) if not name.endswith("inv_freq")]
    return tuple(notes)


def _rope_note(config: dict[str, Any]) -> tuple[str, ...]:
    rope = read_rope(config)
    if rope.is_known_to_megatron:
        return ()
    return (
        f"rotary scaling {rope.kind!r} of config.json has no place in Megatron's args: give it to the training run",
    )


def _facts(options: ConvertOptions, model: _Model, digests: dict[str, str]) -> dict[str, Any]:
    return {
        "seqpack_version": __version__,
        "source": str(options.source.resolve()),
        "to": options.to,
        "family": model.family.architecture,
        "verified": options.verify,
        "sha256": digests,
    }


def _report(
    output: Path, model: _Model, tensors: TensorSource, started: float, verified: bool, notes: tuple[str, ...]
) -> ConvertReport:
    return ConvertReport(
        output=output,
        family=model.family.architecture,
        num_tensors=len(tensors.specs),
        num_bytes=sum(spec.num_bytes for spec in tensors.specs.values()),
        dtypes=tuple(sorted({str(spec.dtype).removeprefix("torch.") for spec in tensors.specs.values()})),
        seconds=perf_counter() - started,
        verified=verified,
        notes=notes,
    )
