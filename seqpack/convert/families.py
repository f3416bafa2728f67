"""Which parameters a model family has, what Megatron calls them, and how Megatron joins and splits them.

A family is one ``WeightConverter``: a table of rules. A new one that differs in names or in a further tensor is a few
lines here or in a plugin, and nothing else has to know about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from seqpack.core.errors import ConfigError, PluginError
from seqpack.hooks.host import plugin_host


class Join(Enum):
    """How Hugging Face parameters make one Megatron parameter, and how tensor parallelism splits it."""

    COPY = auto()
    """One parameter, whole on every rank."""
    ROWS = auto()
    """One parameter, of which each rank has some rows."""
    COLUMNS = auto()
    """One parameter, of which each rank has some columns."""
    QKV = auto()
    """Three: for each group of heads its rows of q, then of k, then of v; each rank has some rows of that."""
    GATE_UP = auto()
    """Two: each rank has its rows of the first, then its rows of the second."""


@dataclass(frozen=True, slots=True)
class Part:
    """A Hugging Face parameter; ``shape`` names attributes of ModelDims. ``{expert}`` in the name counts experts."""

    name: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One Megatron parameter: its name in the local layer spec and, where that differs, in Transformer Engine's.

    A rule whose parts have ``{expert}`` in their names stands for one parameter per expert. Its Megatron name is that
    inside an expert: ``linear_fc1.weight``.
    """

    megatron: str
    parts: tuple[Part, ...]
    join: Join = Join.COPY
    transformer_engine: str = ""

    @property
    def is_expert(self) -> bool:
        return "{expert}" in self.parts[0].name

    def spelled(self, *, transformer_engine: bool) -> str:
        return (transformer_engine and self.transformer_engine) or self.megatron


@dataclass(frozen=True, slots=True)
class WeightConverter:
    """A model family.

    ``architectures``: names in ``config.json``. ``attention``: rules of every layer; ``mlp``: rules of a layer without
    experts; ``experts``: rules of one with them. Embedding, final norm and head are the same for all.
    """

    name: str
    architectures: tuple[str, ...]
    attention: tuple[Rule, ...]
    mlp: tuple[Rule, ...]
    experts: tuple[Rule, ...] = ()

    @property
    def has_experts(self) -> bool:
        return bool(self.experts)

    def has(self, megatron: str) -> bool:
        """Whether layers have a Megatron parameter of that name."""
        return any(rule.megatron == megatron for rule in (*self.attention, *self.mlp, *self.experts))

    def layer(self, *, experts: bool) -> tuple[Rule, ...]:
        return (*self.attention, *(self.experts if experts else self.mlp))


EMBEDDING = Rule(
    "embedding.word_embeddings.weight",
    (Part("model.embed_tokens.weight", ("vocab_size", "hidden_size")),),
    Join.ROWS,
)
FINAL_NORM = Rule("decoder.final_layernorm.weight", (Part("model.norm.weight", ("hidden_size",)),))
HEAD = Rule("output_layer.weight", (Part("lm_head.weight", ("vocab_size", "hidden_size")),), Join.ROWS)

ATTENTION = (
    Rule(
        "input_layernorm.weight",
        (Part("input_layernorm.weight", ("hidden_size",)),),
        transformer_engine="self_attention.linear_qkv.layer_norm_weight",
    ),
    Rule(
        "self_attention.linear_qkv.weight",
        (
            Part("self_attn.q_proj.weight", ("query_size", "hidden_size")),
            Part("self_attn.k_proj.weight", ("kv_size", "hidden_size")),
            Part("self_attn.v_proj.weight", ("kv_size", "hidden_size")),
        ),
        Join.QKV,
    ),
    Rule(
        "self_attention.linear_proj.weight",
        (Part("self_attn.o_proj.weight", ("hidden_size", "query_size")),),
        Join.COLUMNS,
    ),
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
QK_NORM = (
    Rule("self_attention.q_layernorm.weight", (Part("self_attn.q_norm.weight", ("head_dim",)),)),
    Rule("self_attention.k_layernorm.weight", (Part("self_attn.k_norm.weight", ("head_dim",)),)),
)
MLP = (
    Rule(
        "pre_mlp_layernorm.weight",
        (Part("post_attention_layernorm.weight", ("hidden_size",)),),
        transformer_engine="mlp.linear_fc1.layer_norm_weight",
    ),
    Rule(
        "mlp.linear_fc1.weight",
        (
            Part("mlp.gate_proj.weight", ("ffn_hidden_size", "hidden_size")),
            Part("mlp.up_proj.weight", ("ffn_hidden_size", "hidden_size")),
        ),
        Join.GATE_UP,
    ),
    Rule("mlp.linear_fc2.weight", (Part("mlp.down_proj.weight", ("hidden_size", "ffn_hidden_size")),), Join.COLUMNS),
)


def experts_under(module: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Router and experts of a layer: ``module`` holds ``gate.weight`` and ``experts.{expert}.NAME.weight``."""
    expert = f"{module}.experts.{{expert}}"
    return (
        Rule("pre_mlp_layernorm.weight", (Part("post_attention_layernorm.weight", ("hidden_size",)),)),
        Rule("mlp.router.weight", (Part(f"{module}.gate.weight", ("num_experts", "hidden_size")),)),
        Rule(
            "linear_fc1.weight",
            (
                Part(f"{expert}.{gate}.weight", ("expert_ffn_size", "hidden_size")),
                Part(f"{expert}.{up}.weight", ("expert_ffn_size", "hidden_size")),
            ),
            Join.GATE_UP,
        ),
        Rule("linear_fc2.weight", (Part(f"{expert}.{down}.weight", ("hidden_size", "expert_ffn_size")),), Join.COLUMNS),
    )


LLAMA = WeightConverter("llama", ("LlamaForCausalLM",), ATTENTION, MLP)
MISTRAL = WeightConverter("mistral", ("MistralForCausalLM",), ATTENTION, MLP)
QWEN2 = WeightConverter("qwen2", ("Qwen2ForCausalLM",), (*ATTENTION, QKV_BIAS), MLP)
QWEN3 = WeightConverter("qwen3", ("Qwen3ForCausalLM",), (*ATTENTION, *QK_NORM), MLP)
QWEN3_MOE = WeightConverter(
    "qwen3_moe",
    ("Qwen3MoeForCausalLM",),
    (*ATTENTION, *QK_NORM),
    MLP,
    experts_under("mlp", "gate_proj", "up_proj", "down_proj"),
)
MIXTRAL = WeightConverter(
    "mixtral", ("MixtralForCausalLM",), ATTENTION, MLP, experts_under("block_sparse_moe", "w1", "w3", "w2")
)

NAMES_OF_MINDSPEED = {
    "llama2": ("llama", "mistral", "qwen2"),
    "llama3": ("llama",),
    "qwen25": ("qwen2",),
    "qwen3-moe": ("qwen3_moe",),
}
"""What ``--model-type-hf`` calls families there; llama2 stands for all that its flags turn it into."""


def find_converter(config: dict[str, Any]) -> WeightConverter:
    """The family a config names by ``architectures`` or, where that is absent, by ``model_type``.

    ConfigError SP402 for an unknown one, with the known ones and how to add one.
    """
    named = config.get("architectures") or []
    architectures = list(map(str, named if isinstance(named, list) else [named]))
    known, broken = load_converters()
    if (error := broken.get(str(config.get("model_type")))) is not None:
        raise error
    for converter in known:
        if set(architectures) & set(converter.architectures) or (
            not architectures and converter.name == config.get("model_type")
        ):
            return converter
    seen = ", ".join(architectures) or f"model_type {config.get('model_type')!r}"
    raise unknown_family(f"config.json names {seen}, which cannot be converted")


def check_model_type(name: str, converter: WeightConverter | None = None) -> None:
    """ConfigError unless ``--model-type-hf NAME`` is a known family and, if one is given, that one."""
    known = {each.name: (each.name,) for each in load_converters()[0]} | NAMES_OF_MINDSPEED
    if name not in known:
        raise unknown_family(f"--model-type-hf {name} cannot be converted")
    if converter is not None and converter.name not in known[name]:
        raise ConfigError(
            "SP413",
            f"--model-type-hf {name} contradicts config.json, which names {converter.architectures[0]}",
            help="leave the flag out: the family is read from config.json",
        )


def load_converters() -> tuple[list[WeightConverter], dict[str, PluginError]]:
    """All families, and the errors of those whose plugin cannot give them: they must not stop the others."""
    known: list[WeightConverter] = []
    broken: dict[str, PluginError] = {}
    for component in plugin_host().weight_converters:
        try:
            converter = component.load()
        except PluginError as error:
            broken[component.name] = error
            continue
        if isinstance(converter, WeightConverter):
            known.append(converter)
        else:
            broken[component.name] = PluginError(
                "SP012",
                f"{component.name!r} of plugin {component.plugin!r} is {type(converter).__name__}, no WeightConverter",
                help="mend or uninstall that plugin",
            )
    return known, broken


def unknown_family(what: str) -> ConfigError:
    known, broken = load_converters()
    shown = ", ".join(f"{each.name} ({', '.join(each.architectures)})" for each in known)
    lost = f"; not loaded: {', '.join(broken)} (see: seqpack plugins)" if broken else ""
    return ConfigError(
        "SP402",
        what,
        help=f"families: {shown}{lost}; a plugin adds one with the hook seqpack_weight_converters "
        "(see CONTRIBUTING.md)",
    )
