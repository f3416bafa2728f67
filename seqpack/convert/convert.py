"""Convert a model between Hugging Face's layout and Megatron-core's, exactly, a block of bytes at a time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import Any

from seqpack import __version__
from seqpack.convert.check import LogitCheck, Weights, check_logits
from seqpack.convert.copying import compare, fill, total_bytes
from seqpack.convert.dims import read_rope
from seqpack.convert.dtypes import DType
from seqpack.convert.huggingface import CONFIG, copy_small_files, set_dtype
from seqpack.convert.layouts import TRACKER, Draft, iteration_folder, tracker_text
from seqpack.convert.native import newest_step, open_native
from seqpack.convert.output import huggingface_target as output_directory
from seqpack.convert.output import refuse_existing, write_manifest, written_aside
from seqpack.convert.plan import Held, Plan, make_plan
from seqpack.convert.request import Request, check_request, check_source
from seqpack.convert.source import (
    SMALL_FILES_FOLDER,
    Source,
    is_megatron,
    open_huggingface,
    open_megatron,
    way_back_inside,
)
from seqpack.convert.target import Target, huggingface_target, megatron_target, target_dtypes
from seqpack.convert.tensors import Key
from seqpack.convert.verify import in_model_directory, verify
from seqpack.core.errors import CheckpointError, ConfigError, DeviceError
from seqpack.core.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What was done; ``num_tensors`` and ``num_bytes`` count what was written, ``notes`` what was left out and why.

    ``source_split`` and ``split`` say how a Megatron checkpoint is split; empty for a Hugging Face directory.
    """

    output: Path
    family: str
    num_tensors: int
    num_bytes: int
    dtypes: tuple[str, ...]
    seconds: float
    verified: bool
    notes: tuple[str, ...]
    source_split: str = ""
    split: str = ""
    is_dry_run: bool = False
    check: LogitCheck | None = None
    unchecked: str = ""
    """What a dry run could not look at, because it is not on this machine."""


def convert_weights(request: Request, progress: Progress = no_progress) -> ConvertReport:
    """Read ``request.options.source``, write the other layout, read it back, publish it.

    Raises ConfigError and CheckpointError before anything is written, except SP408 (verification) and SP412 (a number
    too large for its new type), which publish nothing. DeviceError (SP503) if the disk is full.
    """
    started = perf_counter()
    options = request.options
    check_request(request)
    if options.dry_run and not way_back_inside(options.source).exists():
        return _only_flags(request)
    source = open_source(request)
    check_source(request, source)
    output = options.output if options.to_megatron else output_directory(options.output)
    if not options.dry_run:
        refuse_existing(output, overwrite=options.overwrite)
    target = megatron_target(request, source) if options.to_megatron else huggingface_target(options, source.model)
    plan = make_plan(source.tensors, target.tensors)
    dtypes = target_dtypes(plan, source.places, options.params_dtype)
    report = _report(request, source, target, dtypes, output)
    if options.dry_run:
        return replace(report, seconds=perf_counter() - started)
    _refuse_full_disk(output, report.num_bytes)
    compare_repeats(plan, source, progress)
    check = _write(request, source, target, plan, dtypes, output, progress)
    return replace(report, seconds=perf_counter() - started, verified=options.verify, check=check)


def open_source(request: Request) -> Source:
    """The model at ``--load-dir``; CheckpointError if there is none, or it is not what ``--load-model-type`` says."""
    options = request.options
    folder = way_back_inside(options.source)
    found = is_megatron(folder)
    if options.load_model_type is not None and folder.is_dir() and found != (options.load_model_type == "mg"):
        raise ConfigError(
            "SP413",
            f"--load-model-type {options.load_model_type}, but {folder} is "
            f"{'a Megatron checkpoint' if found else 'no Megatron checkpoint'}",
            help="leave the flag out, or name the right directory with --load-dir",
        )
    small_files = [options.hf_dir] if options.hf_dir is not None else []
    if not found and not (folder / CONFIG).is_file() and (step := newest_step(folder)) is not None:
        return open_native(step, small_files)
    if not found and options.to_megatron:
        return open_huggingface(folder, weights_may_be_absent=options.dry_run)
    if not found and (folder / CONFIG).is_file():
        raise ConfigError(
            "SP413", f"{folder} is a Hugging Face model already", help="write the other layout with --to mcore"
        )
    # MindSpeed-LLM's users name the original model directory as --save-dir, for this very purpose
    fallback = [] if options.to_megatron else [options.output]
    return open_megatron(folder, small_files, fallback, need_config=not options.to_megatron)


def _write(
    request: Request,
    source: Source,
    target: Target,
    plan: Plan,
    dtypes: Mapping[Key, DType],
    output: Path,
    progress: Progress,
) -> LogitCheck | None:
    """Fill, verify and publish the output; gives what ``--check`` found."""
    options = request.options
    last = TRACKER if options.to_megatron else CONFIG
    with written_aside(output, last=last, keep=source.root) as folder:
        inside = folder / iteration_folder(release=options.release) if options.to_megatron else folder
        inside.mkdir(exist_ok=True)
        draft, checksums = _fill(source, target, plan, dtypes, inside, progress)
        if source.small_files is not None:
            copy_small_files(source.small_files, folder / SMALL_FILES_FOLDER if options.to_megatron else folder)
            if not options.to_megatron:
                set_dtype(folder, dtypes.values())
        digests = _verify(source, target, draft, progress) if options.verify else {}
        check = _check(source, target, draft, progress) if options.check else None
        crc32 = {f"{draft.places[key].path.relative_to(folder)}:{key.name}": crc for key, crc in checksums.items()}
        write_manifest(folder, last, _facts(request, source, target) | {"sha256": digests, "crc32": crc32})
        if options.to_megatron:
            (folder / TRACKER).write_text(tracker_text(release=options.release), encoding="utf-8")
    return check


def _fill(
    source: Source, target: Target, plan: Plan, dtypes: Mapping[Key, DType], folder: Path, progress: Progress
) -> tuple[Draft, dict[Key, int]]:
    draft = target.create(folder, dtypes)
    with progress("write", total_bytes(draft.places.values()), "bytes") as advance:
        checksums = fill(plan, source.places, draft.places, advance)
    draft.close(checksums)
    return draft, checksums


def _verify(source: Source, target: Target, draft: Draft, progress: Progress) -> dict[str, str]:
    """Digests of all Hugging Face tensors, each compared with the source; see ``verify.verify``."""
    total = total_bytes(source.places.values())
    with progress("verify", total, "bytes") as advance:
        return verify(source.model, *_weights(source, target, draft), advance)


def _check(source: Source, target: Target, draft: Draft, progress: Progress) -> LogitCheck:
    """The check; CheckpointError SP408 if no type was changed and the logits still differ."""
    if source.small_files is None:
        raise ConfigError(
            "SP407",
            f"--check needs config.json, and {source.root} has no {SMALL_FILES_FOLDER}/{CONFIG}",
            help="give the directory of the original model with --hf-dir",
        )
    with progress("check"):
        check = check_logits(source.model, source.small_files, *_weights(source, target, draft))
    is_same_type = {place.dtype for place in source.places.values()} == {p.dtype for p in draft.places.values()}
    if isnan(check.largest_difference) or (is_same_type and check.largest_difference > 0):
        raise CheckpointError(
            "SP408",
            f"logits of source and output differ by up to {check.largest_difference:.3g}",
            help="nothing was published; report this with the model's name",
        )
    return check


def _weights(source: Source, target: Target, draft: Draft) -> tuple[Weights, Weights]:
    model = source.model
    original = source.find or in_model_directory(model)
    written = target.layout.find(model, target.form) if target.layout and target.form else in_model_directory(model)
    return (original, source.places), (written, draft.places)


def compare_repeats(plan: Plan, source: Source, progress: Progress) -> None:
    """CheckpointError if parts of the source that must be equal are not: SP405 for a tied head, SP411 for ranks."""
    with progress("compare", sum(held.place.rows for held, _ in plan.repeats), "rows"):
        different = compare(plan, source.places)
    if not different:
        return
    one, other = different[0]
    if _is_head(one) != _is_head(other):
        raise CheckpointError(
            "SP405",
            f"config.json says tie_word_embeddings, but {one.key.name} differs from {other.key.name}",
            help='if they were trained apart, set "tie_word_embeddings": false in config.json',
        )
    raise CheckpointError(
        "SP411",
        f"{one.key} and {other.key} should be equal and are not"
        + (f" (and {len(different) - 1} more such pairs)" if len(different) > 1 else ""),
        help="files of two checkpoints are mixed, or ranks drifted apart in training: save it again from one run",
    )


def _is_head(held: Held) -> bool:
    return any(name in held.key.name for name in ("lm_head.weight", "output_layer.weight"))


def _refuse_full_disk(output: Path, num_bytes: int) -> None:
    """DeviceError SP503 if the files cannot fit; they would be written for a long time before that shows."""
    parent = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if num_bytes > free:
        raise DeviceError(
            "SP503",
            f"{output} would take {num_bytes:,} bytes, {free:,} are free",
            help="free some space or choose another directory with -o; nothing was written",
        )


def _only_flags(request: Request) -> ConvertReport:
    """Of a dry run on a machine that has not got the source."""
    options = request.options
    return ConvertReport(
        output=options.output,
        family=options.model_type_hf or "?",
        num_tensors=0,
        num_bytes=0,
        dtypes=(),
        seconds=0.0,
        verified=False,
        notes=(),
        is_dry_run=True,
        unchecked=f"{options.source} is not on this machine: only the flags were checked",
    )


def _report(
    request: Request, source: Source, target: Target, dtypes: Mapping[Key, DType], output: Path
) -> ConvertReport:
    return ConvertReport(
        output=output,
        family=source.model.converter.architectures[0],
        num_tensors=len(target.tensors),
        num_bytes=sum(tensor.num_elements * dtypes[tensor.key].size for tensor in target.tensors),
        dtypes=tuple(sorted({dtype.torch for dtype in dtypes.values()})),
        seconds=0.0,
        verified=False,
        notes=(*source.notes, *_notes(source, target)),
        source_split=str(source.form.split) if source.form else source.label,
        split=str(target.form.split) if target.form else "",
        is_dry_run=request.options.dry_run,
        unchecked="" if source.has_weights else f"{source.root} has no weights: they were planned from {CONFIG}",
    )


def _notes(source: Source, target: Target) -> list[str]:
    notes = []
    dims, form = source.model.dims, target.form
    if form is None:
        if source.form is not None and source.form.vocab_rows > dims.vocab_size:
            notes.append(f"left out {source.form.vocab_rows - dims.vocab_size} rows that only filled up the vocabulary")
        return notes
    if form.vocab_rows > dims.vocab_size:
        notes.append(
            f"the vocabulary was filled up from {dims.vocab_size:,} to {form.vocab_rows:,} rows: "
            f"train with --padded-vocab-size {form.vocab_rows}"
        )
    if form.split.tp > dims.num_groups:
        notes.append(
            f"TP {form.split.tp} cuts through {dims.num_groups} key-value heads: megatron-core 0.16 or later reads that"
        )
    rope = read_rope(dict(source.config))
    if not rope.is_known_to_megatron:
        notes.append(
            f"rotary scaling {rope.kind!r} of config.json has no place in Megatron's args: give it to the training run"
        )
    return notes


def _facts(request: Request, source: Source, target: Target) -> dict[str, Any]:
    return {
        "seqpack_version": __version__,
        "source": str(source.root.resolve()),
        "to": "mcore" if request.options.to_megatron else "hf",
        "family": source.model.converter.architectures[0],
        "split": str(target.form.split) if target.form else None,
        "verified": request.options.verify,
    }
