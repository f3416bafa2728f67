"""How Megatron splits a model over ranks: tensor, pipeline (even, uneven, virtual) and expert parallelism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seqpack.convert.dims import ModelDims
from seqpack.core.errors import ConfigError

Chunk = tuple[int | None, ...]
"""Layers of one virtual stage in order, by their number in the model; None is a layer that does nothing."""


class Rank(NamedTuple):
    """A rank file of a checkpoint."""

    tp: int
    pp: int
    ep: int


@dataclass(frozen=True, slots=True)
class Split:
    """``stages[p][c]`` are the layers of virtual stage ``c`` of pipeline stage ``p``.

    ``expert_tp`` is the number of pieces each expert is in: that of other weights or 1.
    """

    stages: tuple[tuple[Chunk, ...], ...]
    tp: int = 1
    ep: int = 1
    expert_tp: int = 1

    @property
    def pp(self) -> int:
        return len(self.stages)

    @property
    def vpp(self) -> int:
        """Virtual stages of each pipeline stage."""
        return len(self.stages[0])

    @property
    def slots(self) -> Chunk:
        """Layers in the order of computation, with those that do nothing."""
        chunks = (self.stages[stage][chunk] for chunk in range(self.vpp) for stage in range(self.pp))
        return tuple(layer for chunk in chunks for layer in chunk)

    @property
    def num_slots(self) -> int:
        return len(self.slots)

    @property
    def noop_layers(self) -> tuple[int, ...]:
        """Layers that do nothing, in the numbering that counts them."""
        return tuple(number for number, layer in enumerate(self.slots) if layer is None)

    @property
    def layers_per_stage(self) -> tuple[int, ...]:
        return tuple(sum(map(len, stage)) for stage in self.stages)

    @property
    def is_even(self) -> bool:
        return len({len(chunk) for stage in self.stages for chunk in stage}) == 1

    def ranks(self) -> Iterator[Rank]:
        for pp in range(self.pp):
            for ep in range(self.ep):
                for tp in range(self.tp):
                    yield Rank(tp, pp, ep)

    def __str__(self) -> str:
        virtual = f" ({self.vpp} virtual stages each)" if self.vpp > 1 else ""
        return f"TP {self.tp}, PP {self.pp}{virtual}, EP {self.ep}"


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """A split as flags name it; see ``ConvertOptions`` for what each means."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    expert_tp: int | None = None
    layers_per_virtual_stage: int | None = None
    num_layer_list: tuple[int, ...] = ()
    noop_layers: tuple[int, ...] = ()

    def of(self, dims: ModelDims) -> Split:
        """The split of one model; ConfigError SP414 if its layers, heads or experts do not divide."""
        expert_tp = self.tp if self.expert_tp is None else self.expert_tp
        split = Split(self._stages(dims.num_layers), self.tp, self.ep, expert_tp)
        check_widths(split, dims)
        idle = [place for place, stage in enumerate(split.stages) if all(set(chunk) == {None} for chunk in stage)]
        if between := [place for place in idle if 0 < place < split.pp - 1]:  # others have embedding or head
            raise ConfigError(
                "SP414",
                f"pipeline stage {between[0]} would hold nothing: --noop-layers names all its layers",
                help="spread them over the stages, or choose fewer of these",
            )
        return split

    def _stages(self, num_layers: int) -> tuple[tuple[Chunk, ...], ...]:
        layers = _with_noop(num_layers, self.noop_layers)
        if self.num_layer_list:
            return self._uneven(layers)
        if len(layers) % self.pp:
            idle = f" with {len(self.noop_layers)} of --noop-layers" if self.noop_layers else ""
            raise _indivisible(
                f"{len(layers)} layers{idle} cannot be divided over {self.pp} pipeline stages",
                help="say how with --num-layer-list, fill up with --noop-layers, "
                "or choose another --target-pipeline-parallel-size",
            )
        per_stage = len(layers) // self.pp
        size = self.layers_per_virtual_stage or per_stage
        if self.layers_per_virtual_stage is not None and (per_stage % size or size == per_stage or self.pp == 1):
            raise _indivisible(
                f"--num-layers-per-virtual-pipeline-stage {size} does not fit: "
                f"a pipeline stage has {per_stage} layers and there are {self.pp} of them",
                help="choose a smaller number that divides the layers of a stage; there must be several stages",
            )
        chunks = [layers[start : start + size] for start in range(0, len(layers), size)]
        # virtual stage c of stage p is number c * pp + p in the order of computation
        return tuple(tuple(chunks[stage :: self.pp]) for stage in range(self.pp))

    def _uneven(self, layers: Chunk) -> tuple[tuple[Chunk, ...], ...]:
        counts = self.num_layer_list
        shown = ",".join(map(str, counts))
        if self.layers_per_virtual_stage is not None:
            raise ConfigError(
                "SP414",
                "--num-layer-list and --num-layers-per-virtual-pipeline-stage exclude each other",
                help="leave one of them out",
            )
        if len(counts) != self.pp or sum(counts) != len(layers) or min(counts) < 1:
            raise _indivisible(
                f"--num-layer-list {shown} does not place {len(layers)} layers on {self.pp} pipeline stages",
                help="give a number for each stage (--target-pipeline-parallel-size); "
                "they add up to the layers of the model and --noop-layers",
            )
        starts = [sum(counts[:stage]) for stage in range(self.pp)]
        return tuple((layers[start : start + count],) for start, count in zip(starts, counts, strict=True))


def _with_noop(num_layers: int, noop: Sequence[int]) -> Chunk:
    total = num_layers + len(noop)
    if len(set(noop)) < len(noop) or any(not 0 <= layer < total for layer in noop):
        raise ConfigError(
            "SP414",
            f"--noop-layers {','.join(map(str, noop))}: {num_layers} layers and {len(noop)} that do nothing are "
            f"numbered 0 to {total - 1}, each once",
            help="name the places that do nothing, in the numbering that counts them",
        )
    numbers = iter(range(num_layers))
    return tuple(None if place in noop else next(numbers) for place in range(total))


def check_widths(split: Split, dims: ModelDims) -> None:
    """ConfigError SP414 unless heads, MLP and experts can be divided over the ranks."""
    tp = split.tp
    if dims.num_heads % tp or (dims.num_groups % tp and tp % dims.num_groups):
        raise _indivisible(
            f"{dims.num_heads} attention heads with {dims.num_groups} key-value heads cannot be divided over TP {tp}",
            help="choose a --target-tensor-parallel-size that divides the heads, "
            "and the key-value heads or a multiple of them",
        )
    for what, size, of in (
        ("an MLP", dims.ffn_hidden_size, tp),
        ("an expert", dims.expert_ffn_size, split.expert_tp),
    ):
        if size % of:
            raise _indivisible(
                f"{what} of {size} cannot be divided over TP {of}", help="choose another --target-tensor-parallel-size"
            )
    if split.ep > 1 and (not dims.num_experts or dims.num_experts % split.ep):
        raise _indivisible(
            f"{dims.num_experts} experts cannot be divided over EP {split.ep}",
            help="choose another --target-expert-parallel-size"
            if dims.num_experts
            else "the model has no experts: leave --target-expert-parallel-size out",
        )


def padded_vocab(vocab_size: int, *, multiple: int, tp: int) -> int:
    """Rows of the embedding: ``vocab_size`` rounded up to a multiple of ``multiple * tp``."""
    return -(-vocab_size // (multiple * tp)) * multiple * tp


def _indivisible(what: str, *, help: str) -> ConfigError:
    return ConfigError("SP414", what, help=help)
