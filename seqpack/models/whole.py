"""A whole model in memory, as transformers loads it: for families whose files cannot be read in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seqpack.core.errors import CheckpointError
from seqpack.runtime.quiet import quiet_transformers

if TYPE_CHECKING:
    from seqpack.models.load import ModelSpec


def whole_model(spec: ModelSpec, dtype: torch.dtype, seed: int) -> Any:
    """The model on the host; random weights depend on ``seed``. Raises CheckpointError SP206 for missing weights."""
    from transformers import AutoModelForCausalLM

    if spec.random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(spec.config, dtype=dtype)
    return _pretrained(spec, dtype)


def _pretrained(spec: ModelSpec, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                spec.directory,
                config=spec.config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise unreadable(spec, error) from error
    # transformers fills such weights with random numbers and goes on.
    absent = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if absent:
        raise CheckpointError(
            "SP206",
            f"--model {spec.name}: {len(absent)} weights are missing or have another shape, the first is {absent[0]}",
            help="the weights belong to another config.json, or the directory is incomplete",
        )
    return model


def unreadable(spec: ModelSpec, error: Exception) -> CheckpointError:
    """What to raise for files that are missing or damaged."""
    return CheckpointError(
        "SP206",
        f"--model {spec.name}: its weights cannot be read: {error}",
        help="the directory needs model.safetensors (or its parts and their index); "
        "--random-init starts without weights",
    )
