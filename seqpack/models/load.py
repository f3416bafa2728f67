"""From ``--model`` to a model: what it is, whether packing is exact for it, and its weights. Nothing is downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seqpack.convert.huggingface import CONFIG
from seqpack.convert.source import SMALL_FILES_FOLDER, is_megatron, small_files_inside
from seqpack.core.errors import ConfigError
from seqpack.models.materialize import empty_model, materialize
from seqpack.models.roles import FAMILIES

if TYPE_CHECKING:
    from seqpack.runtime.device import DeviceBackend

PRESET_PREFIX = "tiny:"
PRESET_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "initializer_range": 0.08,  # 1 / sqrt(hidden_size): the usual 0.02 is for wide models, and learns slowly here
}
PRESET_EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": True}
PRESET_EXTRAS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": None},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "moe_intermediate_size": 176, **PRESET_EXPERTS},
    "mixtral": {"num_local_experts": 4, "intermediate_size": 176, **PRESET_EXPERTS},
}
VOCAB_MULTIPLE = 64

# These stretch positions by the longest one in the row, so a sample's result would depend on its neighbours.
ROPE_TYPES_OF_WHOLE_ROW = ("dynamic", "longrope")
ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""What families call the share of attention that is dropped."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that has been checked and not built: ``directory`` is None for a preset.

    ``checkpoint``: the weights are in one of Megatron; ``directory`` is its folder of config and tokenizer.
    """

    name: str
    config: Any
    directory: Path | None
    random_weights: bool
    checkpoint: Path | None = None

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def model_type(self) -> str:
        return str(self.config.model_type)

    @property
    def tested(self) -> bool:
        """Whether the family is one of ``FAMILIES``; others have to pass ``self_check``."""
        return self.model_type in FAMILIES

    @property
    def head_size(self) -> int:
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)

    @property
    def grouped_heads(self) -> bool:
        heads = self.config.num_attention_heads
        return bool((getattr(self.config, "num_key_value_heads", None) or heads) != heads)

    @property
    def has_window(self) -> bool:
        """Whether some layer sees no further back than a window."""
        if (kinds := getattr(self.config, "layer_types", None)) is not None:
            return "sliding_attention" in kinds
        return getattr(self.config, "sliding_window", None) is not None

    def num_parameters(self) -> int:
        """Counted without allocating them; shared embeddings count once."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config)
        return sum(parameter.numel() for parameter in model.parameters())


def resolve_model(
    name: str,
    *,
    random_init: bool = False,
    config_dir: Path | None = None,
    vocab_size: int,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> ModelSpec:
    """Read and check the configuration behind ``--model``; the token numbers are those of the data set.

    ``config_dir`` may have the config of a Megatron checkpoint that does not hold its own.

    Raises ``ConfigError`` SP206 (no usable directory), SP202 (family or setting without support), SP207 (vocabulary).
    """
    if name.startswith(PRESET_PREFIX):
        family = name.removeprefix(PRESET_PREFIX)
        tokens = {"vocab_size": vocab_size, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        return ModelSpec(name, _preset_config(family, **tokens), None, random_weights=True)
    directory, checkpoint = Path(name), None
    if not (directory / CONFIG).is_file() and is_megatron(directory):
        directory, checkpoint = _small_files(directory, config_dir), directory
    config = _read_config(directory)
    _check_attention(name, config)
    if config.vocab_size < vocab_size:
        raise ConfigError(
            "SP207",
            f"--model {name} knows {config.vocab_size:,} tokens, the tokenizer of the data set has {vocab_size:,}",
            help="use the tokenizer of this model to preprocess, or a model with a larger vocabulary",
        )
    return ModelSpec(name, config, directory, random_init, None if random_init else checkpoint)


def build_model(spec: ModelSpec, *, dtype: torch.dtype, backend: DeviceBackend, seed: int = 0) -> Any:
    """The whole model in this process, in training mode, with our attention; random weights depend on ``seed``.

    Raises ``CheckpointError`` SP206 if weights are missing or of the wrong shape.
    """
    model = empty_model(spec, dtype)
    materialize(model, model, spec, device=backend.device, dtype=dtype, seed=seed)
    return model


def _small_files(checkpoint: Path, config_dir: Path | None) -> Path:
    """Where config and tokenizer of a Megatron checkpoint are; ConfigError SP206 if they are nowhere."""
    folder = small_files_inside(checkpoint)
    if not (folder / CONFIG).is_file():
        if config_dir is not None and (config_dir / CONFIG).is_file():
            return config_dir
        raise ConfigError(
            "SP206",
            f"--model {checkpoint} is a Megatron checkpoint without {SMALL_FILES_FOLDER}/{CONFIG}",
            help="name the directory of the original model, with its config, as --tokenizer",
        )
    return folder


def _preset_config(family: str, **tokens: int | None) -> Any:
    from transformers import AutoConfig

    if family not in FAMILIES:
        presets = ", ".join(PRESET_PREFIX + known for known in FAMILIES)
        raise ConfigError("SP202", f"--model {PRESET_PREFIX}{family} does not exist", help=f"there are {presets}")
    vocab_size = tokens.pop("vocab_size") or 1
    rounded = -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    shape = {**PRESET_SHAPE, **PRESET_EXTRAS.get(family, {})}
    return AutoConfig.for_model(family, **shape, vocab_size=rounded, bos_token_id=None, **tokens)


def _read_config(directory: Path) -> Any:
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.is_file():
        raise ConfigError("SP206", f"--model {directory}: there is no {path}", help=_directory_help(directory))
    try:
        model_type = json.loads(path.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ConfigError("SP206", f"{path} is not a model configuration: {error}", help="check the file") from error
    if model_type not in FAMILIES:
        _check_kind(directory, model_type)
    return AutoConfig.from_pretrained(directory, local_files_only=True)


def _check_kind(directory: Path, model_type: object) -> None:
    """SP202 for what transformers does not know as a causal language model of text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(
            "SP202",
            f"--model {directory} is of family {model_type!r}, no causal language model that transformers knows",
            help=f"tested families: {', '.join(FAMILIES)}; others of transformers are checked before they are trained",
        )


def _directory_help(directory: Path) -> str:
    if (directory / "model" / "config.json").is_file():
        return f"did you mean {directory / 'model'}?"
    presets = ", ".join(PRESET_PREFIX + family for family in FAMILIES)
    return f"give a directory in Hugging Face format, or one of {presets}; nothing is downloaded"


def _check_attention(name: str, config: Any) -> None:
    """SP202 for settings under which a packed sample would not get the result it gets alone."""
    refused = []
    if config.get_text_config() is not config:
        refused.append("more than text")
    if getattr(config, "quantization_config", None):
        refused.append("quantized weights")
    dropout = ((name, getattr(config, name, None)) for name in ATTENTION_DROPOUT)
    refused += [f"{name} {rate:g}" for name, rate in dropout if rate]
    refused += [f"rope type {kind!r}" for kind in _rope_types(config) if kind in ROPE_TYPES_OF_WHOLE_ROW]
    if refused:
        raise ConfigError(
            "SP202",
            f"--model {name}: config.json asks for {' and '.join(refused)}, which packed training does not support",
            help="switch it off in config.json if the model allows it, or choose another model",
        )


def _rope_types(config: Any) -> list[str]:
    """Kinds of rotation; some families have one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    each = rope.values() if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]
    return [parameters.get("rope_type", "default") for parameters in each]
