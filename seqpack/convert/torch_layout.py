"""Megatron's legacy layout ``torch``: one ``model_optim_rng.pt`` per rank.

SAVE/latest_checkpointed_iteration.txt              "1" or "release"
SAVE/iter_0000001/mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt     the parts of pipeline and expert rank only if split
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from seqpack.convert.copying import contiguous_place
from seqpack.convert.dtypes import DType
from seqpack.convert.layouts import Draft
from seqpack.convert.mcore import Experts, Form, Model, rank_tensors
from seqpack.convert.split import Rank, Split
from seqpack.convert.stages import find_stages
from seqpack.convert.tensors import Key, Place, Tensor, matrix, on_grid
from seqpack.convert.torch_pickle import PickledTensor, dumps, loads
from seqpack.convert.torch_zip import TorchZip, record_starts
from seqpack.convert.verify import Find, in_rank_files
from seqpack.core.errors import CheckpointError

FILE = "model_optim_rng.pt"
CHECKPOINT_VERSION = 3.0
TRAINING_STATE = ("optimizer", "opt_param_scheduler", "rng_state")
"""What a training run keeps beside the weights, to go on from."""
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")


class TorchLayout:
    """The layout itself; see ``layouts.Layout``."""

    name = "torch"

    def is_in(self, folder: Path) -> bool:
        return any(_RANK.fullmatch(path.name) for path in folder.glob("mp_rank_*"))

    def open(self, folder: Path) -> StoredRanks:
        return StoredRanks.read(folder)

    def tensors(self, model: Model, form: Form) -> list[Tensor]:
        return [tensor for rank in form.split.ranks() for tensor in rank_file(model, form, rank)]

    def find(self, model: Model, form: Form) -> Find:
        return in_rank_files(model, form, partial(_key, form))

    def create(
        self, folder: Path, tensors: Sequence[Tensor], dtypes: Mapping[Key, DType], args: Namespace, iteration: int
    ) -> Draft:
        by_file: dict[str, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            by_file[tensor.key.file].append(tensor)
        chunks = sorted({_split_name(tensor)[0] for tensor in tensors})
        archives: dict[Path, tuple[TorchZip, list[Key]]] = {}
        places: dict[Key, Place] = {}
        for file, members in by_file.items():
            path, keys = folder / file, [tensor.key for tensor in members]
            state = {"args": args, "checkpoint_version": CHECKPOINT_VERSION, "iteration": iteration}
            archive = TorchZip(
                dumps(state | _model_entries(members, dtypes, chunks)),
                [tensor.num_elements * dtypes[tensor.key].size for tensor in members],
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as created:
                os.truncate(created.fileno(), archive.num_bytes)
            archives[path] = archive, keys
            for tensor, start in zip(members, archive.tensor_starts, strict=True):
                place = contiguous_place(path, start, dtypes[tensor.key], tensor.shape)
                places[tensor.key] = on_grid(place, tensor)

        def close(checksums: Mapping[Key, int]) -> None:
            for path, (archive, keys) in archives.items():
                archive.close(path, [checksums[key] for key in keys])

        return Draft(places, close)


def rank_file(model: Model, form: Form, rank: Rank, *, stored_tied_head: bool = False) -> Iterator[Tensor]:
    """The tensors in the file of one rank, under ``model/NAME`` or, with virtual stages, ``model0/NAME`` and on."""
    for chunk, tensor in rank_tensors(model, form, rank, stored_tied_head=stored_tied_head):
        yield replace(tensor, key=_key(form, rank, chunk, tensor.key.name))


def _key(form: Form, rank: Rank, chunk: int, name: str) -> Key:
    file = f"{rank_folder(rank, form.split)}/{FILE}"
    return Key(file, f"model{chunk if form.split.vpp > 1 else ''}/{name}")


def rank_folder(rank: Rank, split: Split) -> str:
    pipeline = f"_{rank.pp:03d}" if split.pp > 1 else ""
    experts = f"_{rank.ep:03d}" if split.ep > 1 else ""
    return f"mp_rank_{rank.tp:02d}{pipeline}{experts}"


def _split_name(tensor: Tensor) -> tuple[str, str]:
    """``model``, or ``model0`` and on, and the name of the parameter there."""
    chunk, _, name = tensor.key.name.partition("/")
    return chunk, name


def _model_entries(
    tensors: Sequence[Tensor], dtypes: Mapping[Key, DType], chunks: Sequence[str]
) -> dict[str, dict[str, PickledTensor]]:
    # one of nothing but layers that do nothing is there too, and empty: Megatron-LM asks for it
    entries: dict[str, dict[str, PickledTensor]] = {chunk: {} for chunk in chunks}
    for number, tensor in enumerate(tensors):
        chunk, name = _split_name(tensor)
        entries[chunk][name] = PickledTensor(str(number), dtypes[tensor.key], tensor.shape)
    return entries


@dataclass(frozen=True, slots=True)
class StoredRanks:
    """An opened checkpoint; see ``layouts.Stored``."""

    folder: Path
    places: Mapping[Key, Place]
    args: Namespace | None
    left_out: tuple[str, ...]
    ranks: frozenset[Rank]
    _files: Mapping[Rank, Mapping[int, frozenset[str]]]
    """Names of the parameters by rank and virtual stage."""

    @classmethod
    def read(cls, folder: Path) -> StoredRanks:
        numbers = {
            path.name: tuple(int(part) for part in match.groups() if part is not None)
            for path in sorted(folder.glob("mp_rank_*"))
            if (match := _RANK.fullmatch(path.name))
        }
        contents = {name: _read_file(folder / name / FILE, f"{name}/{FILE}") for name in numbers}
        state = next(iter(contents.values()))[0]
        args = state.get("args")
        ranks = _ranks(numbers, contents)
        places = [place for _, chunks in contents.values() for chunk in chunks.values() for place in chunk.items()]
        return cls(
            folder,
            dict(places),
            args if isinstance(args, Namespace) else None,
            tuple(key for key in TRAINING_STATE if state.get(key)),
            frozenset(ranks.values()),
            {
                ranks[name]: {
                    number: frozenset(key.name.partition("/")[2] for key in chunk) for number, chunk in chunks.items()
                }
                for name, (_, chunks) in contents.items()
            },
        )

    def form(self, model: Model) -> Form:
        tp, pp, ep = self._sizes()
        names = {name for chunks in self._files.values() for chunk in chunks.values() for name in chunk}
        experts = Experts.SEQUENTIAL
        if any(".experts.linear_fc1." in name for name in names):
            experts = Experts.GROUPED
        elif any(name.endswith(".experts.weight1") for name in names):
            experts = Experts.JOINED
        expert_tp = tp
        if tp > 1 and model.dims.num_experts and self._experts_are_whole(model):
            expert_tp = 1
        rows = next((p.shape[0] for key, p in self.places.items() if key.name.endswith(f"/{EMBEDDING}")), 0)
        return Form(
            Split(find_stages(self._files, self.args, pp), tp, ep, expert_tp),
            rows * tp,
            any(name.endswith("linear_qkv.layer_norm_weight") for name in names),
            experts,
        )

    def _sizes(self) -> tuple[int, int, int]:
        """TP, PP and EP; CheckpointError SP401 if a rank between others is missing."""
        tp, pp, ep = (1 + max(rank[axis] for rank in self.ranks) for axis in range(3))
        wanted = {Rank(*numbers) for numbers in product(range(tp), range(pp), range(ep))}
        # where experts are not split, Megatron-LM has not got every pair of tensor and expert rank
        if (missing := sorted(wanted - self.ranks)) and (tp == 1 or ep == 1):
            shown = ", ".join(f"TP {rank.tp} PP {rank.pp} EP {rank.ep}" for rank in missing[:4])
            raise CheckpointError(
                "SP401",
                f"{self.folder} has {len(self.ranks)} of {len(wanted)} ranks, it misses {shown}",
                help="copy the checkpoint again",
            )
        return tp, pp, ep

    def tensors(self, model: Model) -> list[Tensor]:
        form = self.form(model)
        # experts that are not split over tensor-parallel ranks are repeated there, and not all of these ranks exist
        ranks = [rank for rank in form.split.ranks() if rank in self.ranks or form.split.expert_tp == form.split.tp]
        head = any(name == HEAD for chunks in self._files.values() for chunk in chunks.values() for name in chunk)
        return [tensor for rank in ranks for tensor in rank_file(model, form, rank, stored_tied_head=head)]

    def find(self, model: Model) -> Find:
        return TorchLayout().find(model, self.form(model))

    def _experts_are_whole(self, model: Model) -> bool:
        widths = [
            place.shape[-1]
            for key, place in self.places.items()
            if re.search(r"experts\.(local_experts\.\d+\.)?linear_fc2\.weight\d*$", key.name)
        ]
        if widths:
            return widths[0] == model.dims.expert_ffn_size
        weight2 = next((p for key, p in self.places.items() if key.name.endswith("experts.weight2")), None)
        ep = 1 + max(rank.ep for rank in self.ranks)
        return weight2 is not None and weight2.shape[0] == model.dims.num_experts // ep * model.dims.expert_ffn_size


def _ranks(numbers: Mapping[str, tuple[int, ...]], contents: Mapping[str, _RankFile]) -> dict[str, Rank]:
    """Ranks by folder name. Of two numbers the second is the pipeline's, unless each file has an embedding."""
    lengths = {len(each) for each in numbers.values()}
    if len(lengths) > 1:
        raise CheckpointError(
            "SP401",
            f"folders of ranks are named in different ways: {', '.join(sorted(numbers)[:4])}",
            help="they are of several checkpoints: copy the right one again",
        )
    embeddings = [
        any(key.name.endswith(f"/{EMBEDDING}") for chunk in chunks.values() for key in chunk)
        for _, chunks in contents.values()
    ]
    ranks = {}
    for name, parts in numbers.items():
        if len(parts) == 3:
            ranks[name] = Rank(*parts)
        elif len(parts) == 2 and not all(embeddings):
            ranks[name] = Rank(parts[0], parts[1], 0)
        else:
            ranks[name] = Rank(parts[0], 0, parts[1] if len(parts) == 2 else 0)
    return ranks


_RankFile = tuple[Mapping[str, Any], Mapping[int, Mapping[Key, Place]]]
"""Everything in a file but the weights, and the weights of each virtual stage."""


def _read_file(path: Path, file: str) -> _RankFile:
    """What one file holds; CheckpointError if it cannot be read."""
    if not path.is_file():
        raise CheckpointError("SP401", f"{path} is missing", help="copy the checkpoint again")
    records = record_starts(path)
    state, stem = load_pickle(path, records)
    state = state if isinstance(state, dict) else {}
    chunks: dict[int, dict[Key, Place]] = {}
    for key, entries in state.items():
        match = re.fullmatch(r"model(\d*)", str(key))
        if match and isinstance(entries, dict):
            number = int(match[1] or 0)
            chunks[number] = {
                Key(file, f"{key}/{name}"): place_of(path, records, stem, f"{key}/{name}", value)
                for name, value in entries.items()
                # notes of Transformer Engine (fp8 scales) beside the weights of a module; None in other modules
                if not name.endswith("_extra_state")
            }
    if not chunks:
        raise CheckpointError("SP401", f"{path} holds no model", help="name a checkpoint of Megatron-LM")
    return {key: value for key, value in state.items() if not re.fullmatch(r"model\d*", str(key))}, chunks


def load_pickle(path: Path, records: Mapping[str, tuple[int, int]]) -> tuple[Any, str]:
    """What the pickle of a file holds, and the name its records begin with."""
    name = next((name for name in records if name.endswith("/data.pkl")), None)
    try:
        if name is None:
            raise ValueError("it has no data.pkl")
        stem = name.removesuffix("data.pkl")
        order = records.get(f"{stem}byteorder")
        start, size = records[name]
        with path.open("rb") as file:
            if order is not None:
                file.seek(order[0])
                if file.read(order[1]) != b"little":
                    raise ValueError("it was written by a big-endian machine")
            file.seek(start)
            state = loads(file.read(size))
    # a damaged pickle can fail in any way: AttributeError, IndexError, KeyError, UnicodeDecodeError ...
    except Exception as error:
        raise CheckpointError(
            "SP401",
            f"{path} cannot be read, it may be damaged: {type(error).__name__}: {error}",
            help="copy or save it again",
        ) from error
    return state, stem


def place_of(path: Path, records: Mapping[str, tuple[int, int]], stem: str, name: str, value: Any) -> Place:
    """Where a weight lies; CheckpointError if it is none, or lies in a way that is not read."""
    if not isinstance(value, PickledTensor) or value.dtype is None:
        kind = "of a type that is no floating-point one" if isinstance(value, PickledTensor) else type(value).__name__
        raise CheckpointError(
            "SP404", f"{name} in {path} is {kind}", help="only floating-point weights can be converted"
        )
    row_stride = value.row_stride
    record = records.get(f"{stem}data/{value.record}")
    if record is None or row_stride is None:
        raise CheckpointError(
            "SP404" if record else "SP401",
            f"{name} in {path} {'is a transposed view' if record else 'has no data'}",
            help="load and save the checkpoint again",
        )
    place = contiguous_place(path, record[0] + value.offset * value.dtype.size, value.dtype, value.shape)
    rows, columns = matrix(value.shape)
    end = value.offset + ((rows - 1) * row_stride + columns if rows else 0)
    if value.offset < 0 or end * value.dtype.size > record[1]:
        raise CheckpointError(
            "SP401", f"{name} in {path} is larger than its data", help="copy or save the checkpoint again"
        )
    return replace(place, row_stride=row_stride)
