"""What a conversion reads: the model, where its tensors lie, and that nothing is missing or left over."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpack.convert.copying import contiguous_place
from seqpack.convert.dims import read_config, read_dims
from seqpack.convert.dtypes import BY_TORCH, DType
from seqpack.convert.families import find_converter
from seqpack.convert.huggingface import CONFIG, HEAD, huggingface_tensors, read_places, tied_head
from seqpack.convert.layouts import TRACKER, find_checkpoint
from seqpack.convert.mcore import Form, Model
from seqpack.convert.megatron_args import check_args, config_from_args
from seqpack.convert.output import INSIDE_HF_MODEL
from seqpack.convert.split import check_widths
from seqpack.convert.tensors import Key, Place, Tensor, on_grid
from seqpack.convert.verify import Find
from seqpack.core.errors import CheckpointError, ConfigError

SMALL_FILES_FOLDER = "hf"
"""Inside a Megatron checkpoint: config and tokenizer of the model, which the way back needs."""
WAYS_BACK = (INSIDE_HF_MODEL, "mg2hf")
"""Folder of a converted model inside the original one: as MindSpeed-LLM's documents spell it, and as its code does."""
MAX_LISTED = 8

_ROTARY_TABLE = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


@dataclass(frozen=True, slots=True)
class Source:
    """A model on disk. ``form``, ``args`` and ``find`` are a Megatron checkpoint's, None of a Hugging Face directory.

    ``small_files``: the directory with config and tokenizer, if there is one; ``config`` may stem from args instead.
    """

    root: Path
    model: Model
    config: Mapping[str, Any]
    tensors: Sequence[Tensor]
    places: Mapping[Key, Place]
    small_files: Path | None
    notes: tuple[str, ...] = ()
    form: Form | None = None
    args: Namespace | None = None
    find: Find | None = None
    has_weights: bool = True
    label: str = ""
    """What it is, if neither a Hugging Face directory nor a Megatron checkpoint."""

    @property
    def is_megatron(self) -> bool:
        return self.form is not None


def is_megatron(folder: Path) -> bool:
    """Whether a directory is a Megatron checkpoint, or one iteration of it."""
    marks = (TRACKER, "metadata.json", "common.pt")
    return any((folder / name).exists() for name in marks) or any(folder.glob("mp_rank_*"))


def small_files_inside(checkpoint: Path) -> Path:
    """Where a Megatron checkpoint keeps config and tokenizer of its model, if it has them."""
    return find_checkpoint(checkpoint)[1].parent / SMALL_FILES_FOLDER


def way_back_inside(folder: Path) -> Path:
    """``folder``, or what lies there under the other spelling of mg2hg, or inside it if it is no model itself."""
    if folder.name in WAYS_BACK and not folder.exists():
        others = [folder.with_name(name) for name in WAYS_BACK]
    else:
        others = [folder / name for name in WAYS_BACK if not (folder / CONFIG).is_file()]
    return next((other for other in others if (other / CONFIG).is_file()), folder)


def open_huggingface(folder: Path, *, weights_may_be_absent: bool = False) -> Source:
    """A model directory; CheckpointError SP403 or SP404 unless it has exactly the tensors its config implies.

    ``weights_may_be_absent``: where there are none at all, they are as the config says.
    """
    config = read_config(folder)
    model = read_model(config)
    if weights_may_be_absent and not any(folder.glob("*.safetensors*")):
        return _without_weights(folder, model, config)
    found = {Key("", name): place for name, place in read_places(folder).items()}
    tables = {key for key in found if _ROTARY_TABLE.fullmatch(key.name)}
    places = {key: place for key, place in found.items() if key not in tables}
    tensors = huggingface_tensors(model)
    notes = [f"left out {len(tables)} rotary inv_freq tables: they follow from the config"] if tables else []
    if model.dims.tied and Key("", HEAD) in places:
        tensors.append(tied_head(model))
        notes.append(f"left out {HEAD}: it equals the embedding")
    check_parameters(tensors, places, where=str(folder), hint=_head_hint(tensors, places, HEAD))
    return Source(folder, model, config, tensors, places, folder, tuple(notes))


def _without_weights(folder: Path, model: Model, config: Mapping[str, Any]) -> Source:
    dtype = BY_TORCH.get(str(config.get("dtype") or config.get("torch_dtype")), DType.F32)
    tensors = huggingface_tensors(model)
    places = {tensor.key: contiguous_place(folder / CONFIG, 0, dtype, tensor.shape) for tensor in tensors}
    return Source(folder, model, config, tensors, places, folder, has_weights=False)


def open_megatron(
    folder: Path, small_files: Sequence[Path], fallback: Sequence[Path] = (), *, need_config: bool
) -> Source:
    """A Megatron checkpoint.

    Its config is in the first of ``small_files``, its own folder for that, or ``fallback`` that has one; else its args
    tell the sizes.

    ConfigError SP407 if neither tells, or ``need_config`` and there is no config.json.
    """
    layout, iteration = find_checkpoint(folder)
    stored = layout.open(iteration)
    root = iteration.parent
    candidates = (*small_files, root / SMALL_FILES_FOLDER, *fallback)
    place = next((each for each in candidates if (each / CONFIG).is_file()), None)
    if small_files and place != small_files[0]:
        read_config(small_files[0])
    if place is not None:
        config = read_config(place)
    elif need_config or stored.args is None:
        raise ConfigError(
            "SP407",
            f"{root} has no {SMALL_FILES_FOLDER}/{CONFIG}, so the model's config and tokenizer are unknown",
            help="give the directory of the original model with --hf-dir",
        )
    else:
        config = config_from_args(stored.args)
    model = read_model(config)
    form = stored.form(model)
    check_args(stored.args, model.dims, form)
    _check_vocabulary(model, form, iteration)
    check_widths(form.split, model.dims)
    tensors = stored.tensors(model)
    check_parameters(
        tensors, stored.places, where=str(iteration), hint=_head_hint(tensors, stored.places, "output_layer.weight")
    )
    stored_head = (
        model.dims.tied and form.split.pp == 1 and any("output_layer" in tensor.key.name for tensor in tensors)
    )
    notes = ["left out output_layer.weight: it equals the embedding"] if stored_head else []
    if stored.left_out:
        notes.append(f"left out {', '.join(stored.left_out)}: only weights are converted")
    places = {tensor.key: on_grid(stored.places[tensor.key], tensor) for tensor in tensors}
    return Source(folder, model, config, tensors, places, place, tuple(notes), form, stored.args, stored.find(model))


def read_model(config: Mapping[str, Any]) -> Model:
    converter = find_converter(dict(config))
    return Model(converter, read_dims(dict(config), experts=converter.has_experts))


def check_parameters(tensors: Sequence[Tensor], found: Mapping[Key, Place], *, where: str, hint: str = "") -> None:
    """CheckpointError unless ``found`` has exactly the expected tensors (SP403) in their shapes (SP404)."""
    expected = {tensor.key: tensor.shape for tensor in tensors}
    missing = [_shown(key) for key in expected if key not in found]
    left_over = [_shown(key) for key in found if key not in expected]
    if missing or left_over:
        problems = [f"misses {_listed(missing)}"] if missing else []
        problems += [f"has {_listed(left_over)}, for which the other layout has no place"] if left_over else []
        raise CheckpointError(
            "SP403",
            f"{where} {' and '.join(problems)}",
            help=hint or "check that config.json belongs to these weights, and that no rank or shard is missing",
        )
    wrong = [
        f"{_shown(key)} is {list(found[key].shape)} instead of {list(shape)}"
        for key, shape in expected.items()
        if found[key].shape != shape
    ]
    if wrong:
        raise CheckpointError(
            "SP404", f"{where}: {_listed(wrong)}", help="check that config.json belongs to these weights"
        )


def _check_vocabulary(model: Model, form: Form, where: Path) -> None:
    if form.vocab_rows < model.dims.vocab_size:
        raise CheckpointError(
            "SP404",
            f"{where}: the embedding has {form.vocab_rows:,} rows, config.json wants {model.dims.vocab_size:,}",
            help=f"if the rest was never trained, set vocab_size to {form.vocab_rows} in a copy of config.json "
            "and name its directory with --hf-dir",
        )


def _head_hint(tensors: Sequence[Tensor], found: Mapping[Key, Place], head: str) -> str:
    lacks = any(tensor.key not in found and tensor.key.name.endswith(head) for tensor in tensors)
    return 'if the head shares the embedding, set "tie_word_embeddings": true in config.json' if lacks else ""


def _shown(key: Key) -> str:
    return str(key) if key.file else key.name


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more
