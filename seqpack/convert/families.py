"""Which parameters a model family has, what Megatron calls them, and which of them Megatron keeps joined.

A family is a table of rules. A new family that differs in names or in a further tensor is a few more lines here, and
the same lines in ``verify.py``, which knows the correspondence a second time on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from seqpack.convert.dims import ModelDims
from seqpack.core.errors import ConfigError


class Join(Enum):
    """How Hugging Face parameters lie in the rows of one Megatron parameter."""

    COPY = auto()
    QKV = auto()
    """For each group of heads its rows of q, then of k, then of v."""
    STACK = auto()
    """All rows of the first, then all rows of the second."""


@dataclass(frozen=True, slots=True)
class Part:
    """A Hugging Face parameter; ``shape`` names attributes of ModelDims."""

    name: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One Megatron parameter (name as in the local layer spec) and the parts it is joined from."""

    megatron: str
    parts: tuple[Part, ...]
    join: Join = Join.COPY


@dataclass(frozen=True, slots=True)
class Family:
    """A model architecture: the rules of one decoder layer; embedding, final norm and head are the same for all."""

    architecture: str
    model_type: str
    layer: tuple[Rule, ...]

    @property
    def has_qkv_bias(self) -> bool:
        return QKV_BIAS in self.layer


@dataclass(frozen=True, slots=True)
class Parameter:
    """A rule applied to one model: full names, and the shapes of the Hugging Face parts."""

    megatron: str
    huggingface: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    join: Join

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on the Megatron side: every join puts rows below rows."""
        return (sum(shape[0] for shape in self.shapes), *self.shapes[0][1:])


EMBEDDING = Rule(
    "embedding.word_embeddings.weight", (Part("model.embed_tokens.weight", ("vocab_size", "hidden_size")),)
)
FINAL_NORM = Rule("decoder.final_layernorm.weight", (Part("model.norm.weight", ("hidden_size",)),))
HEAD = Rule("output_layer.weight", (Part("lm_head.weight", ("vocab_size", "hidden_size")),))

DECODER_LAYER = (
    Rule("input_layernorm.weight", (Part("input_layernorm.weight", ("hidden_size",)),)),
    Rule(
        "self_attention.linear_qkv.weight",
        (
            Part("self_attn.q_proj.weight", ("query_size", "hidden_size")),
            Part("self_attn.k_proj.weight", ("kv_size", "hidden_size")),
            Part("self_attn.v_proj.weight", ("kv_size", "hidden_size")),
        ),
        Join.QKV,
    ),
    Rule("self_attention.linear_proj.weight", (Part("self_attn.o_proj.weight", ("hidden_size", "query_size")),)),
    Rule("pre_mlp_layernorm.weight", (Part("post_attention_layernorm.weight", ("hidden_size",)),)),
    Rule(
        "mlp.linear_fc1.weight",
        (
            Part("mlp.gate_proj.weight", ("ffn_hidden_size", "hidden_size")),
            Part("mlp.up_proj.weight", ("ffn_hidden_size", "hidden_size")),
        ),
        Join.STACK,
    ),
    Rule("mlp.linear_fc2.weight", (Part("mlp.down_proj.weight", ("hidden_size", "ffn_hidden_size")),)),
)
QKV_BIAS = Rule(
    "self_attention.linear_qkv.bias",
    (
        Part("self_attn.q_proj.bias", ("query_size",)),
        Part("self_attn.k_proj.bias", ("kv_size",)),
        Part("self_attn.v_proj.bias", ("kv_size",)),
    ),
    Join.QKV,
)

FAMILIES = (
    Family("LlamaForCausalLM", "llama", DECODER_LAYER),
    Family("Qwen2ForCausalLM", "qwen2", (*DECODER_LAYER, QKV_BIAS)),
)


def find_family(config: dict[str, Any]) -> Family:
    """The family a config names by ``architectures`` or, where that is absent, by ``model_type``; else ConfigError."""
    architectures = config.get("architectures") or []
    for family in FAMILIES:
        if family.architecture in architectures or (
            not architectures and family.model_type == config.get("model_type")
        ):
            return family
    seen = ", ".join(map(str, architectures)) or f"model_type {config.get('model_type')!r}"
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ConfigError("SP402", f"config.json names {seen}, which cannot be converted", help=f"known: {known}")


def parameters(family: Family, dims: ModelDims) -> Iterator[Parameter]:
    """Every parameter of a model, in the order of computation; a tied model has no head of its own."""
    yield _apply(EMBEDDING, "", "", dims)
    for layer in range(dims.num_layers):
        for rule in family.layer:
            yield _apply(rule, f"decoder.layers.{layer}.", f"model.layers.{layer}.", dims)
    yield _apply(FINAL_NORM, "", "", dims)
    if not dims.tied:
        yield _apply(HEAD, "", "", dims)


def _apply(rule: Rule, megatron_prefix: str, huggingface_prefix: str, dims: ModelDims) -> Parameter:
    return Parameter(
        megatron_prefix + rule.megatron,
        tuple(huggingface_prefix + part.name for part in rule.parts),
        tuple(tuple(getattr(dims, size) for size in part.shape) for part in rule.parts),
        rule.join,
    )
