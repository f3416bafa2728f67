"""Megatron's distributed layout ``torch_dist``: parameters that no tensor, pipeline or expert parallelism has split.

SAVE/latest_checkpointed_iteration.txt     "1" or "release"
SAVE/iter_0000001/metadata.json            which layout it is
                 /common.pt                args, checkpoint_version, iteration, content_metadata
                 /__0_N.distcp             chunks of parameters, each a stream of torch.save
                 /.metadata                which chunk is where; written last
"""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpack.convert.copying import contiguous_place
from seqpack.convert.dcp import METADATA, Box, Metadata, StoredTensor, Stream, read_metadata, write_metadata
from seqpack.convert.dist_find import in_chunks
from seqpack.convert.dtypes import DType
from seqpack.convert.layouts import Draft
from seqpack.convert.mcore import Experts, Form, Model
from seqpack.convert.split import Split
from seqpack.convert.stacks import FUSED_NORM, LAYER, NORM, Stack, chunk_key, is_per_layer, stacks
from seqpack.convert.tensors import Key, Place, Tensor, on_grid
from seqpack.convert.torch_layout import (
    CHECKPOINT_VERSION,
    EMBEDDING,
    HEAD,
    TRAINING_STATE,
    load_pickle,
    place_of,
)
from seqpack.convert.torch_pickle import PickledTensor, dumps
from seqpack.convert.torch_zip import TorchZip, record_starts
from seqpack.convert.verify import Find
from seqpack.core.errors import CheckpointError, ConfigError

MARK, COMMON = "metadata.json", "common.pt"
BACKEND = "torch_dist"
FILE_BYTES = 8 << 30
"""A file that has grown beyond this is followed by another."""
BACKENDS = {
    "sharded_backend": BACKEND,
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_CHUNK = re.compile(r"(.+)\[([\d, ]*)\]")
_STATE = re.compile(r"(?:chained_\d+\.)?(optimizer|opt_param_scheduler|rng_state)\b")
_WITH_STATE = re.compile(
    r"(.+\.)(linear_qkv|linear_proj|linear_fc1|linear_fc2|q_layernorm|k_layernorm|pre_mlp_layernorm|final_layernorm)"
    r"\.weight"
)
_SIZES_OF_RANKS = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "num_layers_per_virtual_pipeline_stage",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)


class DistLayout:
    """The layout itself; see ``layouts.Layout``. Sizes of ranks are only kept in ``args``."""

    name = BACKEND

    def is_in(self, folder: Path) -> bool:
        return (folder / MARK).is_file() or (folder / COMMON).is_file()

    def open(self, folder: Path) -> StoredChunks:
        return StoredChunks.read(folder)

    def tensors(self, model: Model, form: Form) -> list[Tensor]:
        if form.split.noop_layers:
            raise ConfigError(
                "SP414",
                f"--noop-layers: {BACKEND} has no place for layers that do nothing",
                help="leave the flag out, or write --ckpt-format torch",
            )
        return [stack.tensor(box) for stack in _stacks(model, form).values() for box in stack.boxes()]

    def find(self, model: Model, form: Form) -> Find:
        written = _stacks(model, form)
        return in_chunks(model, form, written, {name: list(stack.boxes()) for name, stack in written.items()})

    def create(
        self, folder: Path, tensors: Sequence[Tensor], dtypes: Mapping[Key, DType], args: Namespace, iteration: int
    ) -> Draft:
        writer = _Writer(folder)
        places = {tensor.key: on_grid(writer.add(tensor, dtypes[tensor.key]), tensor) for tensor in tensors}
        for name in extra_states(tensors):
            writer.add_blob(name)
        writer.allocate()
        common = {"args": args, "checkpoint_version": CHECKPOINT_VERSION, "iteration": iteration}
        if is_per_layer(tensor.key.name for tensor in tensors):
            common["content_metadata"] = {"non_homogeneous_layers": True}

        def close(checksums: Mapping[Key, int]) -> None:
            archive = TorchZip(dumps(common), [])
            (folder / COMMON).write_bytes(b"")
            archive.close(folder / COMMON, [])
            (folder / MARK).write_text(json.dumps(BACKENDS), encoding="utf-8")
            writer.close(checksums)

        return Draft(places, close)


def _stacks(model: Model, form: Form) -> dict[str, Stack]:
    return stacks(model, form.vocab_rows, per_layer=bool(model.dims.dense_layers))


class _Writer:
    """Streams one after the other in files of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[str, int] = {}
        self._streams: list[tuple[str, TorchZip, Key | None]] = []
        self._metadata = Metadata({}, {})

    def add(self, tensor: Tensor, dtype: DType) -> Place:
        match = _CHUNK.fullmatch(tensor.key.name)
        assert match is not None
        offsets = tuple(int(number) for number in match[2].split(","))
        pickled = dumps(PickledTensor("0", dtype, tensor.shape))
        stream, archive = self._append(pickled, [tensor.num_elements * dtype.size], tensor.key)
        ends = tuple(offset + size for offset, size in zip(offsets, tensor.shape, strict=True))
        known = self._metadata.tensors.get(match[1])
        shape = tuple(map(max, known.shape, ends)) if known else ends
        parts = (known.parts if known else {}) | {Box(offsets, tensor.shape): stream}
        self._metadata.tensors[match[1]] = StoredTensor(shape, dtype, parts)
        return contiguous_place(self._folder / stream.file, archive.tensor_starts[0], dtype, tensor.shape)

    def add_blob(self, name: str) -> None:
        """The state of a module that has none."""
        self._metadata.blobs[name], _ = self._append(dumps([None]), [], None)

    def _append(self, pickled: bytes, sizes: Sequence[int], key: Key | None) -> tuple[Stream, TorchZip]:
        file = next(reversed(self._ends), "__0_0.distcp")
        if self._ends.get(file, 0) > FILE_BYTES:
            file = f"__0_{len(self._ends)}.distcp"
        base = self._ends.get(file, 0)
        archive = TorchZip(pickled, sizes, base=base)
        self._ends[file] = base + archive.num_bytes
        self._streams.append((file, archive, key))
        return Stream(file, base, archive.num_bytes), archive

    def allocate(self) -> None:
        for file, size in self._ends.items():
            with (self._folder / file).open("xb") as created:
                os.truncate(created.fileno(), size)

    def close(self, checksums: Mapping[Key, int]) -> None:
        for file, archive, key in self._streams:
            archive.close(self._folder / file, [] if key is None else [checksums[key]])
        write_metadata(self._folder / METADATA, self._metadata)


def extra_states(tensors: Iterable[Tensor]) -> Iterator[str]:
    """Names under which Megatron-core's loader asks for the state of modules, all that any layer spec has."""
    shapes: dict[str, tuple[int, ...]] = {}
    modules: dict[tuple[str, tuple[int, ...]], None] = {}
    for tensor in tensors:
        chunk = _CHUNK.fullmatch(tensor.key.name)
        assert chunk is not None
        offsets = tuple(int(number) for number in chunk[2].split(","))
        match = _WITH_STATE.fullmatch(chunk[1])
        if match is None:
            continue
        index = offsets[: -2 if match[2].startswith("linear") else -1]
        names = [match[2]] if match[2] != "linear_proj" else [match[2], "core_attention"]
        for name in names:
            module = match[1] + name
            modules[module, index] = None
            shapes[module] = tuple(map(max, shapes.get(module, index), index))
    for module, index in modules:
        where, size = index or (0,), tuple(last + 1 for last in shapes[module]) or (1,)
        yield f"{module}._extra_state/shard_{_dotted(where)}_{_dotted(size)}"


def _dotted(numbers: Iterable[int]) -> str:
    return ".".join(map(str, numbers))


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """An opened checkpoint; see ``layouts.Stored``. ``parameters`` are the weights among its tensors."""

    folder: Path
    places: Mapping[Key, Place]
    args: Namespace | None
    left_out: tuple[str, ...]
    parameters: Mapping[str, StoredTensor]

    @classmethod
    def read(cls, folder: Path) -> StoredChunks:
        _check_mark(folder / MARK)
        common = _read_common(folder / COMMON)
        metadata = read_metadata(folder / METADATA)
        states = [match[1] for name in (*metadata.tensors, *metadata.blobs) if (match := _STATE.match(name))]
        parameters = {name: tensor for name, tensor in metadata.tensors.items() if not _STATE.match(name)}
        places = chunk_places(folder, parameters)
        args = common.get("args")
        left_out = tuple(name for name in TRAINING_STATE if name in states or common.get(name))
        return cls(folder, places, _without_ranks(args), left_out, parameters)

    def form(self, model: Model) -> Form:
        numbered = {int(match[1]) for name in self.parameters if (match := LAYER.match(name))}
        stacked = [tensor.shape[0] for name, tensor in self.parameters.items() if name.startswith("decoder.layers.")]
        layers = len(numbered) if numbered else max(stacked, default=0)
        embedding = self.parameters.get(EMBEDDING)
        transformer_engine = getattr(self.args, "transformer_impl", "transformer_engine") != "local"
        experts = Experts.SEQUENTIAL
        if getattr(self.args, "moe_grouped_gemm", False) and model.dims.num_experts:
            experts = Experts.GROUPED if transformer_engine else Experts.JOINED
        rows = embedding.shape[0] if embedding else model.dims.vocab_size
        return Form(Split(((tuple(range(layers)),),)), rows, transformer_engine, experts)

    def tensors(self, model: Model) -> list[Tensor]:
        tensors = []
        for stack in self._stacks(model).values():
            stored = self.parameters.get(stack.name)
            if stored is None:
                tensors.append(Tensor(Key("", stack.name), stack.shape, ()))
                continue
            check_whole(self.folder, stack, stored)
            tensors += [stack.tensor(box) for box in stored.parts]
        return tensors

    def find(self, model: Model) -> Find:
        boxes = {name: list(tensor.parts) for name, tensor in self.parameters.items()}
        return in_chunks(model, self.form(model), self._stacks(model), boxes)

    def _stacks(self, model: Model) -> dict[str, Stack]:
        """What must be there: of the two norms before experts, only the one that is."""
        per_layer = is_per_layer(self.parameters)
        found = stacks(model, self.form(model).vocab_rows, per_layer=per_layer)
        if model.dims.tied and HEAD in self.parameters:
            found[HEAD] = Stack(HEAD, (), found[EMBEDDING].members)
        for name in [name for name in found if name.endswith(FUSED_NORM)]:
            other = name.removesuffix(FUSED_NORM) + NORM
            if other in found:
                present = [each for each in (other, name) if each in self.parameters] or [other]
                for each in {other, name} - set(present):
                    del found[each]
        return found


def _check_mark(path: Path) -> None:
    """ConfigError SP406 for another layout that has such a file, CheckpointError SP401 if it is none."""
    try:
        mark = json.loads(path.read_bytes())
        backend = mark["sharded_backend"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "SP401", f"{path} does not name a layout of Megatron-core", help="copy the checkpoint again"
        ) from error
    if backend != BACKEND:
        raise ConfigError(
            "SP406", f"{path} says {backend}, which is not read", help=f"save it with --ckpt-format {BACKEND} or torch"
        )


def _read_common(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError("SP401", f"{path} is missing", help="copy the checkpoint again")
    state, _ = load_pickle(path, record_starts(path))
    return state if isinstance(state, dict) else {}


def _without_ranks(args: Any) -> Namespace | None:
    """Args without what they say of ranks: the files do not depend on how the run was split."""
    if not isinstance(args, Namespace):
        return None
    return Namespace(**{name: value for name, value in vars(args).items() if name not in _SIZES_OF_RANKS})


def chunk_places(folder: Path, parameters: Mapping[str, StoredTensor]) -> dict[Key, Place]:
    """Where every chunk lies; CheckpointError SP401 if a file is missing, cut short or damaged."""
    _check_files(folder, parameters)
    return {
        chunk_key(name, box): _chunk_place(folder, name, tensor, box, stream)
        for name, tensor in parameters.items()
        for box, stream in tensor.parts.items()
    }


def _check_files(folder: Path, parameters: Mapping[str, StoredTensor]) -> None:
    """CheckpointError SP401 if a file with weights is missing or ends before it should."""
    ends: dict[str, int] = {}
    for tensor in parameters.values():
        for stream in tensor.parts.values():
            ends[stream.file] = max(ends.get(stream.file, 0), stream.offset + stream.length)
    for file, end in sorted(ends.items()):
        path = folder / file
        if not path.is_file():
            raise CheckpointError("SP401", f"{path} is missing", help="copy the checkpoint again, with all its files")
        if path.stat().st_size < end:
            raise CheckpointError(
                "SP401",
                f"{path} is cut short: it has {path.stat().st_size:,} bytes, {METADATA} counts on {end:,}",
                help="copy it again",
            )


def _chunk_place(folder: Path, name: str, tensor: StoredTensor, box: Box, stream: Stream) -> Place:
    path = folder / stream.file
    records = record_starts(path, base=stream.offset, length=stream.length)
    value, stem = load_pickle(path, records)
    place = place_of(path, records, stem, name, value)
    if place.shape != box.sizes or place.dtype is not tensor.dtype:
        raise CheckpointError(
            "SP401", f"{name} in {path} is not what {METADATA} says", help="files of two checkpoints are mixed"
        )
    return place


def check_whole(folder: Path, stack: Stack, stored: StoredTensor) -> None:
    """CheckpointError SP404 for another shape than the model's, SP401 if the chunks are not all of a parameter."""
    if stored.shape != stack.shape:
        raise CheckpointError(
            "SP404",
            f"{folder}: {stack.name} is {list(stored.shape)} instead of {list(stack.shape)}",
            help="check that config.json belongs to these weights",
        )
    if not _are_inside(stored) or not stack.is_tiled(list(stored.parts)):
        raise CheckpointError(
            "SP401",
            f"{folder}: the chunks of {stack.name} do not make the whole of it",
            help="save the checkpoint again; that of a single rank is not enough",
        )


def _are_inside(tensor: StoredTensor) -> bool:
    return all(
        len(box.offsets) == len(box.sizes) == len(tensor.shape)
        and all(o + s <= n for o, s, n in zip(*box, tensor.shape, strict=True))
        for box in tensor.parts
    )
