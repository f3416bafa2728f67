"""Writing a model as a Hugging Face directory: complete under its final name, or not there at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from seqpack.io.publish import partial_folder
from seqpack.models.lora import LoraSettings, write_adapter
from seqpack.runtime.quiet import quiet_transformers
from seqpack.train.disk import unwritable

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def save_hf(
    model: Any, out_dir: Path, tokenizer_dir: Path | None = None, *, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write ``model`` (of transformers) to ``out_dir``, replacing what is there; files of the tokenizer are copied.

    ``weights`` are those to write, where the model holds only pieces of them.

    They are copied byte for byte because loading and saving a tokenizer rewrites them, and what the model was trained
    with should be what it is served with.
    """
    with partial_folder(out_dir) as partial:
        with quiet_transformers(), _plain_disk_errors(partial):
            if weights is None:
                model.save_pretrained(partial)
            else:
                _save_weights(model, weights, partial)
        if tokenizer_dir is not None:
            _copy_tokenizer(tokenizer_dir, partial)
        for file in partial.iterdir():
            # safetensors writes files that only their owner can read; config.json has the mode users expect
            file.chmod((partial / "config.json").stat().st_mode)
        _replace_directory(partial, out_dir)


def save_adapter(
    weights: Mapping[str, torch.Tensor], settings: LoraSettings, targets: Iterable[str], base: str, out_dir: Path
) -> None:
    """Write a LoRA adapter to ``out_dir``, replacing what is there."""
    with partial_folder(out_dir) as partial:
        with _plain_disk_errors(partial):
            write_adapter(partial, weights, settings, targets, base)
        _replace_directory(partial, out_dir)


def _save_weights(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Through an empty copy of the model: it knows which weights are shared, and in which parts to write them."""
    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        whole = type(model)._from_config(model.config, dtype=dtype)
    whole.load_state_dict(weights, assign=True)
    whole.tie_weights()
    whole.generation_config = model.generation_config
    whole.save_pretrained(folder)


@contextlib.contextmanager
def _plain_disk_errors(folder: Path) -> Iterator[None]:
    """What safetensors says of a full disk, as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise unwritable(error, folder) or error from error


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _replace_directory(new: Path, old: Path) -> None:
    """A directory cannot be renamed over another; the old one steps aside and goes last."""
    if not old.exists():
        new.rename(old)
        return
    aside = new.with_name(f"{new.name}.old")
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside)
