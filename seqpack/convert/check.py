"""Do source and output compute the same? transformers runs both on a few prompts, with weights read from the files.

Needs memory for the whole model, once: the one is gone before the other is built.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqpack.convert.copying import OpenFiles
from seqpack.convert.mcore import Model
from seqpack.convert.tensors import Key, Place, matrix
from seqpack.convert.verify import Find, read
from seqpack.core.errors import DeviceError

if TYPE_CHECKING:
    import torch

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    return n if n < 2 else",
    "三人行,必有我师焉。",
)
NUM_IDS = 16  # of prompts made of numbers, where there is no tokenizer


@dataclass(frozen=True, slots=True)
class LogitCheck:
    """``largest_difference`` between logits of source and output, and ``largest_logit``, to compare it with."""

    largest_difference: float
    largest_logit: float


Weights = tuple[Find, Mapping[Key, Place]]


def check_logits(model: Model, small_files: Path, source: Weights, target: Weights) -> LogitCheck:
    """Run both in float32 on the CPU; DeviceError SP502 if torch or transformers is missing."""
    try:
        import torch
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise DeviceError(
            "SP502", f"--check needs {error.name}, which is not installed", help='pip install "seqpack-toolkit[train]"'
        ) from error
    prompts = _prompts(small_files, model.dims.vocab_size)
    before, after = (_logits(model, small_files, weights, prompts) for weights in (source, target))
    pairs = list(zip(before, after, strict=True))
    return LogitCheck(
        max(float((one - other).abs().max()) for one, other in pairs),
        max(float(torch.as_tensor(one).abs().max()) for one, _ in pairs),
    )


def _logits(model: Model, small_files: Path, weights: Weights, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits ``[tokens, vocabulary]`` of every prompt."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from seqpack.runtime.quiet import quiet_transformers

    config = AutoConfig.from_pretrained(small_files, local_files_only=True)
    with quiet_transformers():
        network = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=_state_dict(model, *weights), dtype=torch.float32
        )
    with torch.inference_mode():
        return [network.eval()(torch.tensor([prompt])).logits[0] for prompt in prompts]


def _state_dict(model: Model, find: Find, places: Mapping[Key, Place]) -> dict[str, torch.Tensor]:
    import torch

    weights = {}
    with OpenFiles() as files:
        for name, shape in model.huggingface():
            holding = find(name)[0]
            dtype = places[holding.shards[0]].dtype
            bits = np.empty(matrix(shape), dtype.bits)
            read(holding, places, 0, bits, files)
            signed = torch.from_numpy(bits.view(f"i{dtype.size}"))
            weights[name] = signed.view(getattr(torch, dtype.torch)).reshape(shape)
    return weights


def _prompts(small_files: Path, vocab_size: int) -> list[list[int]]:
    """Ids of the prompts; of numbers spread over the vocabulary where the tokenizer cannot be used."""
    with contextlib.suppress(Exception):  # tokenizers raises a bare Exception for a file it cannot read
        from tokenizers import Tokenizer

        tokenizer: Any = Tokenizer.from_file(str(small_files / "tokenizer.json"))
        encoded = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
        if all(ids and max(ids) < vocab_size for ids in encoded):
            return encoded
    return [[(start + place * 7919) % vocab_size for place in range(NUM_IDS)] for start in range(len(PROMPTS))]
