"""Does what was written hold what was read? Every Hugging Face tensor is found again on both sides, byte by byte.

Where a row belongs is computed here a second time, from the Hugging Face side and as row numbers, so that a mistake in
``mcore.py`` or ``plan.py`` does not check itself. Every copy is looked at: of a norm, each rank has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpack.convert.copying import BLOCK_BYTES, OpenFiles, Staging, in_threads, read_rows
from seqpack.convert.dims import ModelDims
from seqpack.convert.dtypes import convert_bits
from seqpack.convert.families import EMBEDDING, HEAD, Join, Rule
from seqpack.convert.mcore import Experts, Form, Model, expert_name
from seqpack.convert.split import Rank, Split
from seqpack.convert.tensors import Key, Place, matrix
from seqpack.core.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Holding:
    """One whole copy of a Hugging Face tensor: by its rows, the shard each lies in and the row there.

    ``shards`` are stored tensors. ``in_columns``: each shard has all rows and some of the columns. ``transposed``: rows
    lie as columns, from row ``first_row`` of the stored matrix on. ``strips``: instead of that, columns lie apart; each
    strip begins at one of them and is a holding of its own.
    """

    shards: tuple[Key, ...]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    in_columns: bool = False
    transposed: bool = False
    first_row: int = 0
    strips: tuple[tuple[int, Holding], ...] = ()


Find = Callable[[str], Sequence[Holding]]
"""Every copy of a Hugging Face tensor in a layout."""


class KeyOf(Protocol):
    """The key of a parameter in a layout of rank files."""

    def __call__(self, rank: Rank, chunk: int, name: str) -> Key: ...


def verify(
    model: Model,
    source: tuple[Find, Mapping[Key, Place]],
    target: tuple[Find, Mapping[Key, Place]],
    advance: Callable[[int], None],
) -> dict[str, str]:
    """SHA-256 of every Hugging Face tensor as it was written; CheckpointError SP408 if a byte is not the source's."""
    shapes = dict(model.huggingface())
    (find, places), (find_written, written) = source, target
    with OpenFiles() as files:

        def work(name: str) -> tuple[str, str]:
            digest = hashlib.sha256()
            rows, columns = matrix(shapes[name])
            copies = find_written(name)
            original = find(name)[0]
            dtype, stored = written[copies[0].shards[0]].dtype, places[original.shards[0]].dtype
            height = max(1, BLOCK_BYTES // (columns * max(dtype.size, stored.size)))
            height = min(height, rows)
            there, here = np.empty((height, columns), stored.bits), np.empty((height, columns), dtype.bits)
            for first in range(0, rows, height):
                count = min(height, rows - first)
                read(original, places, first, there[:count], files)
                wanted = convert_bits(there[:count], stored, dtype)
                for copy in copies:
                    read(copy, written, first, here[:count], files)
                    if not np.array_equal(here[:count], wanted):
                        raise _failed(f"{name} is not what {copy.shards[0]} holds")
                digest.update(here[:count].data.cast("B"))
                advance(count * columns * dtype.size)
            return name, digest.hexdigest()

        return dict(in_threads(work, list(shapes)))


def read(holding: Holding, places: Mapping[Key, Place], first: int, into: NDArray[Any], files: OpenFiles) -> None:
    """Fill ``into`` with rows ``first`` and on of a Hugging Face tensor, in full width, as bits of its type."""
    rows, columns = into.shape
    staging = Staging()
    if holding.strips:
        ends = [*(first_column for first_column, _ in holding.strips[1:]), columns]
        for (start, strip), end in zip(holding.strips, ends, strict=True):
            read(strip, places, first, into[:, start:end], files)
        return
    if holding.in_columns:
        width = columns // len(holding.shards)
        for number, key in enumerate(holding.shards):
            part = into[:, number * width : (number + 1) * width]
            _read_run(holding, places[key], first, part, files, staging)
        return
    shard, row = holding.shard[first : first + rows], holding.row[first : first + rows]
    breaks = np.flatnonzero((np.diff(row) != 1) | (np.diff(shard) != 0)) + 1
    for start, end in zip([0, *breaks.tolist()], [*breaks.tolist(), rows], strict=True):
        place = places[holding.shards[shard[start]]]
        _read_run(holding, place, int(row[start]), into[start:end], files, staging)


def _read_run(holding: Holding, place: Place, row: int, into: NDArray[Any], files: OpenFiles, staging: Staging) -> None:
    if not holding.transposed:
        read_rows(place, row, 0, into, files, staging)
        return
    taken = np.empty(into.shape[::-1], into.dtype)
    read_rows(place, holding.first_row, row, taken, files, staging)
    into[...] = taken.T


def in_model_directory(model: Model) -> Find:
    """Where Hugging Face tensors lie in a Hugging Face directory."""
    shapes = dict(model.huggingface())

    def find(name: str) -> Sequence[Holding]:
        rows = np.arange(matrix(shapes[name])[0])
        return [Holding((Key("", name),), np.zeros_like(rows), rows)]

    return find


def in_rank_files(model: Model, form: Form, key_of: KeyOf) -> Find:
    """Where Hugging Face tensors lie in the files of ranks."""
    rules = {
        Model.part_name(part.name, layer, expert): (rule, number, layer, expert)
        for rule, layer, expert in model.rules()
        for number, part in enumerate(rule.parts)
    }
    homes: dict[int | None, tuple[int, int, int]] = {
        layer: (stage, chunk, local)
        for stage, chunks in enumerate(form.split.stages)
        for chunk, layers in enumerate(chunks)
        for local, layer in enumerate(layers)
        if layer is not None
    }

    def find(name: str) -> Sequence[Holding]:
        rule, part, layer, expert = rules[name]
        stage, chunk, prefix = _home(rule, form.split, homes.get(layer), layer)
        if expert is not None:
            return list(_of_expert(model, form, rule, part, expert, (stage, chunk, prefix), key_of))
        found = _prefixed(model, form, rule, part, (stage, chunk, prefix), key_of)
        if rule is EMBEDDING and model.dims.tied and form.split.pp > 1:
            last = (form.split.pp - 1, form.split.vpp - 1, "")
            found += _prefixed(model, form, rule, part, last, key_of, name=HEAD.megatron)
        return found

    return find


Home = tuple[int, int, str]
"""Pipeline stage, virtual stage, and what names begin with there."""


def _home(rule: Rule, split: Split, home: tuple[int, int, int] | None, layer: int | None) -> Home:
    if layer is not None:
        assert home is not None, f"layer {layer} is on no stage"
        return home[0], home[1], f"decoder.layers.{home[2]}."
    return (0, 0, "") if rule is EMBEDDING else (split.pp - 1, split.vpp - 1, "")


def _prefixed(
    model: Model, form: Form, rule: Rule, part: int, home: Home, key_of: KeyOf, *, name: str = ""
) -> list[Holding]:
    stage, chunk, prefix = home
    split = form.split
    named = prefix + (name or rule.spelled(transformer_engine=form.transformer_engine))
    shard, row = part_rows(model.dims, rule, part, split.tp, form.vocab_rows)
    return [
        Holding(tuple(key_of(Rank(tp, stage, ep), chunk, named) for tp in tps), shard, row, rule.join is Join.COLUMNS)
        for ep in range(split.ep)
        for tps in _copies(rule.join, split.tp)
    ]


def _of_expert(
    model: Model, form: Form, rule: Rule, part: int, expert: int, home: Home, key_of: KeyOf
) -> Iterator[Holding]:
    stage, chunk, prefix = home
    dims, split = model.dims, form.split
    ep, number = divmod(expert, dims.num_experts // split.ep)
    shard, row = part_rows(dims, rule, part, split.expert_tp, form.vocab_rows)
    joined = form.experts is Experts.JOINED
    if joined:
        name = "weight1" if rule.megatron.startswith("linear_fc1") else "weight2"
    else:
        name = expert_name(form.experts, rule.megatron, number)
    # of an expert that is whole, each tensor-parallel rank has a copy
    for tps in _copies(rule.join, split.tp) if split.expert_tp > 1 else [(tp,) for tp in range(split.tp)]:
        keys = tuple(key_of(Rank(tp, stage, ep), chunk, f"{prefix}mlp.experts.{name}") for tp in tps)
        if not joined:
            yield Holding(keys, shard, row, rule.join is Join.COLUMNS)
        elif rule.join is Join.GATE_UP:
            yield Holding(keys, shard, row, transposed=True, first_row=number * dims.hidden_size)
        else:
            yield from _joined_down(keys, dims, number)


def _joined_down(keys: tuple[Key, ...], dims: ModelDims, number: int) -> Iterator[Holding]:
    """``down_proj`` in weight2: its columns lie as rows, those of each rank in its own file."""
    height = dims.expert_ffn_size // len(keys)
    rows = np.arange(dims.hidden_size)
    yield Holding(keys, np.zeros_like(rows), rows, in_columns=True, transposed=True, first_row=number * height)


def _copies(join: Join, tp: int) -> list[tuple[int, ...]]:
    """Tensor-parallel ranks that together have one whole copy of a parameter."""
    return [(rank,) for rank in range(tp)] if join is Join.COPY else [tuple(range(tp))]


def part_rows(dims: ModelDims, rule: Rule, part: int, tp: int, vocab_rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shard and row there of each row of one Hugging Face parameter."""
    count = getattr(dims, rule.parts[part].shape[0])
    row = np.arange(count)
    if rule.join is Join.QKV:
        row = _attention_rows(dims, part)
        share = (dims.num_heads + 2 * dims.num_groups) * dims.head_dim // tp
        return row // share, row % share
    if rule.join is Join.GATE_UP:
        share = count // tp
        return row // share, row % share + part * share
    if rule.join is Join.ROWS:
        share = (vocab_rows if rule in (EMBEDDING, HEAD) else count) // tp
        return row // share, row % share
    return np.zeros_like(row), row


def _attention_rows(dims: ModelDims, part: int) -> NDArray[Any]:
    """Row of linear_qkv for each row of q_proj, k_proj or v_proj (part 0, 1 and 2)."""
    row = np.arange((dims.num_groups if part else dims.num_heads) * dims.head_dim)
    head, within_head = row // dims.head_dim, row % dims.head_dim
    heads_per_group = dims.num_heads // dims.num_groups
    if part:
        place = head * (heads_per_group + 2) + heads_per_group + part - 1
    else:
        place = head // heads_per_group * (heads_per_group + 2) + head % heads_per_group
    return place * dims.head_dim + within_head


def _failed(what: str) -> CheckpointError:
    return CheckpointError(
        "SP408",
        f"the files just written do not hold the source's weights: {what}",
        help="nothing was published; check the disk, and report this with the model's name",
    )
