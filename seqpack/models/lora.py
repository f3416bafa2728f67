"""LoRA: frozen matrices with a trained product of two small ones beside each, in the files that ``peft`` reads.

``y = W x + alpha / r * B (A x)``; A is random, B is 0 at the start, so that the model begins as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqpack.core.errors import ConfigError
from seqpack.core.suggest import did_you_mean
from seqpack.models.sources import Where, seed_of

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What ``peft`` puts before the names of the model."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """``targets`` are last parts of module names, such as "q_proj"; empty means every matrix of the layers."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


class LoraLinear(nn.Module):
    """Stands where ``base`` stood; only ``lora_A`` ``[r, in]`` and ``lora_B`` ``[out, r]`` are trained.

    Without memory yet, they begin with what ``AdapterSource`` has.
    """

    def __init__(self, base: nn.Linear, settings: LoraSettings) -> None:
        super().__init__()
        self.base = base
        weight = base.weight
        self.lora_A = nn.Parameter(weight.new_empty(settings.rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], settings.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self._scale = settings.alpha / settings.rank
        self._dropout = settings.dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = nn.functional.linear(nn.functional.dropout(x, self._dropout, self.training), self.lora_A)
        changed: torch.Tensor = self.base(x) + self._scale * nn.functional.linear(narrow, self.lora_B)
        return changed


def add_lora(model: Any, settings: LoraSettings) -> tuple[str, ...]:
    """Freeze ``model`` and put adapters beside its matrices; returns the targets, sorted.

    Raises ConfigError SP208 for a target that the model does not have.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    targets = find_targets(model, settings.targets)
    for name, module in _matrices(model).items():
        if _last(name) in targets:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLinear(module, settings))
    return targets


def find_targets(model: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The matrices to adapt, sorted: those named, or all that the layers of ``model`` have.

    Raises ConfigError SP208 for a name that the model does not have, or if there is no matrix at all.
    """
    known = sorted({_last(name) for name in _matrices(model)})
    if not known:
        raise ConfigError(
            "SP208",
            f"--lora-r: the layers of family {model.config.model_type!r} have no matrix for an adapter",
            help="leave --lora-r out: all weights are trained then",
        )
    for target in names:
        if target not in known:
            raise ConfigError(
                "SP208",
                f"--lora-target-modules: this model has no matrix {target!r} in its layers",
                help=did_you_mean(target, known) or f"there are: {', '.join(known)}",
            )
    return tuple(sorted(set(names))) or tuple(known)


def _matrices(model: Any) -> dict[str, nn.Linear]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".layers." in name
    }


class AdapterSource:
    """What adapters begin with, whole: A random by its name and ``seed``, B zero; on any number of ranks the same."""

    def __init__(self, adapters: Mapping[str, torch.Tensor], seed: int) -> None:
        self._adapters, self._seed = adapters, seed

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._adapters[name].shape)

    def read(self, name: str, where: Where) -> torch.Tensor:
        whole = torch.zeros(self._adapters[name].shape, dtype=torch.float32)
        if _last(name) == "lora_A":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self._seed, name))
                nn.init.kaiming_uniform_(whole, a=math.sqrt(5))
        return whole[where]


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is part of an adapter."""
    return _last(name) in ("lora_A", "lora_B")


def name_without_adapter(name: str) -> str:
    """The name a frozen parameter has in the model without adapters."""
    return name.replace(".base.", ".")


def adapter_weights(names: Iterable[str]) -> dict[str, str]:
    """Names of parameters of a model with adapters -> the names ``peft`` gives them; others are left out."""
    return {name: f"{PREFIX}{name}.weight" for name in names if is_adapter(name)}


def write_adapter(
    folder: Path, weights: Mapping[str, torch.Tensor], settings: LoraSettings, targets: Iterable[str], base: str
) -> None:
    """The two files of an adapter; ``weights`` have the names of the model."""
    from safetensors.torch import save_file

    named = {theirs: weights[ours].contiguous() for ours, theirs in adapter_weights(weights).items()}
    save_file(named, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(targets),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
