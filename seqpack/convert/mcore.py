"""A model under Megatron-core's names: first whole, then as the tensors of each rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from seqpack.convert.dims import ModelDims
from seqpack.convert.families import EMBEDDING, FINAL_NORM, HEAD, Join, Rule, WeightConverter
from seqpack.convert.split import Rank, Split
from seqpack.convert.tensors import Key, Piece, Tensor


class Experts(Enum):
    """How the experts of a layer are kept."""

    SEQUENTIAL = "sequential"
    """``experts.local_experts.{e}.linear_fc1.weight``"""
    GROUPED = "grouped"
    """``experts.linear_fc1.weight{e}``: Transformer Engine's grouped linear."""
    JOINED = "joined"
    """``experts.weight1`` and ``weight2``: all experts in one tensor, transposed (grouped gemm of older cores)."""


@dataclass(frozen=True, slots=True)
class Form:
    """Everything that may differ between two checkpoints of one model; ``vocab_rows`` counts padded rows too."""

    split: Split
    vocab_rows: int
    transformer_engine: bool = False
    experts: Experts = Experts.SEQUENTIAL


@dataclass(frozen=True, slots=True)
class Model:
    """A family and the sizes of one model of it."""

    converter: WeightConverter
    dims: ModelDims

    def huggingface(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every Hugging Face tensor, in the order of computation; a tied head is none."""
        for rule, layer, expert in self.rules():
            for part in rule.parts:
                yield self.part_name(part.name, layer, expert), self.shape(part.shape)

    def rules(self) -> Iterator[tuple[Rule, int | None, int | None]]:
        """Every rule with the layer and expert it is for."""
        yield EMBEDDING, None, None
        for layer in range(self.dims.num_layers):
            for rule in self.converter.layer(experts=self.dims.has_experts(layer)):
                for expert in range(self.dims.num_experts) if rule.is_expert else (None,):
                    yield rule, layer, expert
        yield FINAL_NORM, None, None
        if not self.dims.tied:
            yield HEAD, None, None

    def shape(self, sizes: Sequence[str]) -> tuple[int, ...]:
        return tuple(getattr(self.dims, size) for size in sizes)

    @staticmethod
    def part_name(name: str, layer: int | None, expert: int | None) -> str:
        prefix = "" if layer is None else f"model.layers.{layer}."
        return prefix + (name if expert is None else name.replace("{expert}", str(expert)))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A whole Megatron parameter, before any split: strips of Hugging Face tensors, one below the other."""

    join: Join
    strips: tuple[Piece, ...]
    rows: int
    columns: int
    is_vector: bool

    def shard(self, tp: int, of: int) -> tuple[tuple[int, ...], tuple[Piece, ...]]:
        """Shape and pieces of tensor-parallel rank ``tp`` of ``of``."""
        if self.join is Join.COPY or of == 1:
            return self._shape(self.rows, self.columns), self.strips
        if self.join is Join.COLUMNS:
            width = self.columns // of
            return self._shape(self.rows, width), tuple(
                strip._replace(column=tp * width, columns=width) for strip in self.strips
            )
        blocks = [(0, self.rows)] if self.join is not Join.GATE_UP else [(s.at_row, s.rows) for s in self.strips]
        pieces: list[Piece] = []
        height = 0
        for start, rows in blocks:
            share = rows // of
            first = start + tp * share
            pieces += cut_rows(self.strips, first, first + share, at=height)
            height += share
        return self._shape(height, self.columns), tuple(pieces)

    def _shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return (rows,) if self.is_vector else (rows, columns)


def cut_rows(strips: Sequence[Piece], first: int, last: int, *, at: int) -> Iterator[Piece]:
    """What lies in rows ``first`` to ``last``, moved so that row ``first`` is at row ``at``."""
    for strip in strips:
        start, end = max(first, strip.at_row), min(last, strip.at_row + strip.rows)
        if start < end:
            yield strip._replace(row=strip.row + start - strip.at_row, rows=end - start, at_row=start - first + at)


def whole_parameter(
    model: Model, rule: Rule, layer: int | None, expert: int | None, *, vocab_rows: int | None = None
) -> Parameter:
    """The parameter a rule makes in one layer (and expert); ``vocab_rows`` of embedding and head, with the padding."""
    names = [model.part_name(part.name, layer, expert) for part in rule.parts]
    shapes = [model.shape(part.shape) for part in rule.parts]
    columns = shapes[0][1] if len(shapes[0]) > 1 else 1
    rows = [shape[0] for shape in shapes]
    strips: list[Piece] = []
    if rule.join is Join.QKV:
        dims = model.dims
        heights = [dims.heads_per_group * dims.head_dim, dims.head_dim, dims.head_dim]
        for group in range(dims.num_groups):
            _stack(strips, names, [group * height for height in heights], heights, columns)
    else:
        _stack(strips, names, [0] * len(names), rows, columns)
    total = sum(rows)
    if vocab_rows is not None:
        # as Megatron-LM and MindSpeed-LLM do: new rows start as copies of the last one
        last = Piece(names[0], rows[0] - 1, 0, 1, columns, 0, 0, is_padding=True)
        strips += [last._replace(at_row=row) for row in range(total, vocab_rows)]
        total = vocab_rows
    return Parameter(rule.join, tuple(strips), total, columns, len(shapes[0]) == 1)


def _stack(
    strips: list[Piece], names: Sequence[str], starts: Sequence[int], heights: Sequence[int], columns: int
) -> None:
    for name, start, height in zip(names, starts, heights, strict=True):
        at_row = strips[-1].at_row + strips[-1].rows if strips else 0
        strips.append(Piece(name, start, 0, height, columns, at_row, 0))


def rank_tensors(
    model: Model, form: Form, rank: Rank, *, stored_tied_head: bool = False
) -> Iterator[tuple[int, Tensor]]:
    """Every tensor of one rank with the number of its virtual stage; keys have no file yet.

    A tied model has a head of its own on the last of several pipeline stages, which is the embedding again;
    ``stored_tied_head``: also where there is only one stage, as some programs write it.
    """
    split = form.split
    is_first, is_last = rank.pp == 0, rank.pp == split.pp - 1
    for chunk, layers in enumerate(split.stages[rank.pp]):
        if is_first and chunk == 0:
            yield chunk, _vocabulary(model, EMBEDDING, EMBEDDING.megatron, form, rank)
        for local, layer in enumerate(layers):
            if layer is not None:
                for tensor in layer_tensors(model, form, rank, layer, f"decoder.layers.{local}."):
                    yield chunk, tensor
        if is_last and chunk == split.vpp - 1:
            yield chunk, _tensor(FINAL_NORM.megatron, *whole_parameter(model, FINAL_NORM, None, None).shard(0, 1))
            if not model.dims.tied:
                yield chunk, _vocabulary(model, HEAD, HEAD.megatron, form, rank)
            elif split.pp > 1 or stored_tied_head:
                yield chunk, _vocabulary(model, EMBEDDING, HEAD.megatron, form, rank)


def layer_tensors(model: Model, form: Form, rank: Rank, layer: int, prefix: str) -> Iterator[Tensor]:
    """The tensors of one layer on one rank, named ``prefix`` and what follows it."""
    split, dims = form.split, model.dims
    for rule in model.converter.layer(experts=dims.has_experts(layer)):
        if not rule.is_expert:
            parameter = whole_parameter(model, rule, layer, None)
            name = prefix + rule.spelled(transformer_engine=form.transformer_engine)
            yield _tensor(name, *parameter.shard(rank.tp, split.tp))
            continue
        per_rank = dims.num_experts // split.ep
        first = rank.ep * per_rank
        tp = rank.tp if split.expert_tp > 1 else 0
        shards = [
            whole_parameter(model, rule, layer, expert).shard(tp, split.expert_tp)
            for expert in range(first, first + per_rank)
        ]
        if form.experts is Experts.JOINED:
            yield _joined(f"{prefix}mlp.experts.", rule.megatron, shards)
        else:
            for number, shard in enumerate(shards):
                yield _tensor(f"{prefix}mlp.experts.{expert_name(form.experts, rule.megatron, number)}", *shard)


def expert_name(experts: Experts, megatron: str, number: int) -> str:
    """``linear_fc1.weight`` of local expert ``number``, as that way of keeping experts calls it."""
    return f"{megatron}{number}" if experts is Experts.GROUPED else f"local_experts.{number}.{megatron}"


def _joined(prefix: str, megatron: str, shards: Sequence[tuple[tuple[int, ...], tuple[Piece, ...]]]) -> Tensor:
    """Transposed experts, one below the other in memory; the shape Megatron gives it is only another view of that."""
    (out, inner), _ = shards[0]
    pieces = tuple(
        _turned(piece, at_row=number * inner + piece.at_column, at_column=piece.at_row)
        for number, (_, shard) in enumerate(shards)
        for piece in shard
    )
    grid = (inner * len(shards), out)
    if megatron.startswith("linear_fc1"):
        return Tensor(Key("", f"{prefix}weight1"), (inner, len(shards) * out), pieces, grid)
    return Tensor(Key("", f"{prefix}weight2"), (len(shards) * inner, out), pieces, grid)


def _turned(piece: Piece, *, at_row: int, at_column: int) -> Piece:
    return piece._replace(at_row=at_row, at_column=at_column, transposed=True)


def _vocabulary(model: Model, rule: Rule, name: str, form: Form, rank: Rank) -> Tensor:
    parameter = whole_parameter(model, rule, None, None, vocab_rows=form.vocab_rows)
    return _tensor(name, *parameter.shard(rank.tp, form.split.tp))


def _tensor(name: str, shape: tuple[int, ...], pieces: tuple[Piece, ...]) -> Tensor:
    return Tensor(Key("", name), shape, pieces)
