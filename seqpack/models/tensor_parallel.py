"""Tensor parallelism with sequence parallelism for the families of ``ROLES``: ranks of a group share every matrix.

Between blocks each rank holds a run of the tokens, inside attention and MLP all tokens and some heads or features:

    norm -> gather tokens -> q k v, gate up -> heads, features of this rank -> o, down -> sum, cut tokens -> + residual

Boundaries, position ids and the rotation stay those of the whole row on every rank. A parameter that all ranks of the
group have whole (norms, shared key heads, routers) gets a part of its gradient on each; the parts are added up once a
step (``seqpack.train.gradients``). Embedding and output layer are cut along the vocabulary, experts by their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from seqpack.core.errors import ConfigError
from seqpack.models.expert_parallel import num_experts
from seqpack.models.local_parameters import distribute, read_locally
from seqpack.models.roles import FAMILIES, ROLES, Role, role_of
from seqpack.runtime.collectives import gather_tokens, own_run, sum_and_cut_tokens

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement

FLAG = "--tensor-model-parallel-size"
ROWS = (Role.O, Role.DOWN)
"""Matrices whose input features are cut: their output is a sum over ranks."""
VOCABULARY = (Role.EMBEDDING, Role.HEAD)
EXPERTS = (Role.GATE_UP_EXPERTS, Role.DOWN_EXPERTS)
WHOLE = (Role.Q_NORM, Role.K_NORM, Role.ATTENTION_NORM, Role.MLP_NORM, Role.FINAL_NORM, Role.ROUTER)


def check_tensor_parallel(config: Any, size: int) -> None:
    """ConfigError SP610 if a model of this configuration cannot be cut into ``size``, with what does not divide."""
    if size == 1:
        return
    if config.model_type not in ROLES:
        raise ConfigError(
            "SP610",
            f"{FLAG} {size}: which weights of family {config.model_type!r} are cut and how is not known",
            help=f"known are {', '.join(FAMILIES)}; a family is added by a row in ROLES of seqpack/models/roles.py, "
            "which the tests then hold to the result of one process; data parallel ranks need no such row",
        )
    kv_heads = _kv_heads(config)
    if kv_heads % size and size % kv_heads:
        _refuse(size, f"{kv_heads} key heads")
    experts = num_experts(config)
    for number, what in (
        (config.num_attention_heads, "attention heads"),
        (config.intermediate_size if experts is None or has_dense_layers(config) else size, "features of the MLP"),
        (experts or size, "experts"),
    ):
        if number % size:
            _refuse(size, f"{number} {what}")
    if -(-config.vocab_size // size) * (size - 1) >= config.vocab_size:
        _refuse(size, f"a vocabulary of {config.vocab_size}")


def has_dense_layers(config: Any) -> bool:
    """Whether a mixture of experts has layers without experts."""
    return bool(getattr(config, "mlp_only_layers", None)) or getattr(config, "decoder_sparse_step", 1) > 1


def cut_tensors(model: Any, mesh: DeviceMesh) -> None:
    """Cut ``model`` (of transformers and whole on every rank, or a stage of it) in place among the ranks of ``mesh``.

    Afterwards its last norm gives the tokens of all ranks, and the loss has to be that of a part of the vocabulary.
    """
    config, modules, runs = model.config, dict(model.named_modules()), _TokenRuns(mesh.get_group())
    roles = _modules_by_role(model)
    embedding, head = (modules.get(ROLES[config.model_type][role]) for role in VOCABULARY)
    tied = embedding is not None and head is not None and embedding.weight is head.weight
    for name, role in roles.items():
        module, parent = modules[name], modules[name.rpartition(".")[0]]
        if role in EXPERTS or (role is Role.HEAD and tied):
            continue
        _cut(module, role, config, mesh)
        if role is Role.O:
            parent.register_forward_pre_hook(runs.before_attention, with_kwargs=True)
        elif role in (Role.DOWN, Role.ROUTER):
            parent.register_forward_pre_hook(runs.before_mlp)
            if role is Role.ROUTER:
                parent.register_forward_hook(runs.after_experts)
        elif role is Role.FINAL_NORM:
            module.register_forward_hook(runs.after_last_norm)
    if tied:
        assert embedding is not None and head is not None
        head._parameters["weight"] = embedding._parameters["weight"]
        read_locally(head, "weight")


def _modules_by_role(model: Any) -> dict[str, Role]:
    """Name of every module that has parameters -> what they do."""
    found = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        role, _ = role_of(model.config.model_type, name)
        found[name.rpartition(".")[0]] = role
    return found


def cut_dimension(role: Role, ndim: int, config: Any, size: int) -> int | None:
    """The dimension along which ``size`` ranks cut a parameter of ``ndim`` dimensions; None if each has it whole."""
    if role in WHOLE or (role in (Role.K, Role.V) and _kv_heads(config) < size):
        return None
    if role in ROWS:
        return 1 if ndim == 2 else None
    return 0


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _cut(module: Any, role: Role, config: Any, mesh: DeviceMesh) -> None:
    kv_heads = _kv_heads(config)
    placements: dict[str, list[Placement]] = {}
    for name, parameter in module.named_parameters(recurse=False):
        dimension = cut_dimension(role, parameter.ndim, config, mesh.size())
        placements[name] = [Replicate() if dimension is None else Shard(dimension)]
    if role in (Role.K, Role.V) and kv_heads < mesh.size():
        module.__class__, module.head = SharedHead, mesh.get_local_rank() * kv_heads // mesh.size()
        module.head_size = module.out_features // kv_heads
    elif role in ROWS:
        module.__class__, module.group = RowLinear, mesh.get_group()
    elif role is Role.EMBEDDING:
        module.__class__, module.group = VocabularyEmbedding, mesh.get_group()
    distribute(module, mesh, placements)


class RowLinear(nn.Linear):
    """Input features of this rank -> this rank's tokens of the sum over ranks."""

    group: ProcessGroup

    def forward(self, x_1TF: torch.Tensor) -> torch.Tensor:
        own_1tD = sum_and_cut_tokens(nn.functional.linear(x_1TF, self.weight), self.group)
        return own_1tD if self.bias is None else own_1tD + self.bias


class SharedHead(nn.Linear):
    """Keys or values of the one head that the query heads of this rank look at; other ranks compute it as well."""

    head: int
    head_size: int

    def forward(self, x_1TD: torch.Tensor) -> torch.Tensor:
        rows = slice(self.head * self.head_size, (self.head + 1) * self.head_size)
        return nn.functional.linear(x_1TD, self.weight[rows], None if self.bias is None else self.bias[rows])


class VocabularyEmbedding(nn.Embedding):
    """Every rank looks up the words of its part of the vocabulary; the sum over ranks has all of them."""

    group: ProcessGroup

    def forward(self, input_ids_1T: torch.Tensor) -> torch.Tensor:
        part_VD = self.weight
        known = own_run(self.num_embeddings, self.group)
        ids_1T = input_ids_1T - known.start
        inside_1T = (ids_1T >= 0) & (ids_1T < len(part_VD))
        # Its word is looked up and gets no gradient, as in one process.
        padding = None if self.padding_idx is None else self.padding_idx - known.start
        padding = padding if padding is not None and 0 <= padding < len(part_VD) else None
        embedded_1TD = nn.functional.embedding(ids_1T.clamp(0, len(part_VD) - 1), part_VD, padding)
        return sum_and_cut_tokens(embedded_1TD * inside_1T[..., None], self.group)


class _TokenRuns:
    """Gathers tokens before a block; how many there are is known from the rotation that attention gets."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._total = 0

    def before_attention(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._total = kwargs["position_embeddings"][0].shape[1]
        return args, {**kwargs, "hidden_states": self._gather(kwargs["hidden_states"])}

    def before_mlp(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        return (self._gather(args[0]), *args[1:])

    def after_experts(self, module: nn.Module, args: tuple[Any, ...], output_1TD: torch.Tensor) -> torch.Tensor:
        return sum_and_cut_tokens(output_1TD, self._group)

    def after_last_norm(self, module: nn.Module, args: tuple[Any, ...], output_1tD: torch.Tensor) -> torch.Tensor:
        return self._gather(output_1tD)

    def _gather(self, x_1tD: torch.Tensor) -> torch.Tensor:
        return gather_tokens(x_1tD, self._total, self._group)


def _refuse(size: int, what: str) -> NoReturn:
    raise ConfigError(
        "SP610",
        f"{FLAG} {size}: {what} cannot be shared out among so many processes",
        help="choose another number, or share the work with --pp, --cp or data parallel processes",
    )
