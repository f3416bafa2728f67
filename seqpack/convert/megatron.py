"""Megatron's legacy checkpoint: one ``model_optim_rng.pt`` per rank under ``iter_0000001/`` or ``release/``.

SAVE/latest_checkpointed_iteration.txt        "1" or "release"
SAVE/iter_0000001/mp_rank_00/model_optim_rng.pt
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from seqpack.convert import safe_pickle
from seqpack.convert.huggingface import DTYPE_NAMES, as_bytes
from seqpack.convert.mapping import TensorSource, TensorSpec
from seqpack.core.errors import CheckpointError, ConfigError

TRACKER = "latest_checkpointed_iteration.txt"
RANK_FILE = Path("mp_rank_00", "model_optim_rng.pt")
CHECKPOINT_VERSION = 3.0


class MegatronCheckpoint:
    """The model of a checkpoint on one rank; its tensors stay on disk until they are read."""

    def __init__(self, path: Path) -> None:
        """CheckpointError if the file cannot be read; ConfigError if it holds only a part of the model."""
        state = _load(path)
        if "model" not in state and "model0" in state:
            raise _unsupported(f"{path} holds virtual pipeline chunks (model0, model1, ...)")
        if not isinstance(state.get("model"), dict):
            raise CheckpointError("SP401", f"{path} holds no model", help="name a checkpoint of Megatron-LM")
        args = state.get("args")
        self.args = args if isinstance(args, Namespace) else None
        for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
            if getattr(self.args, name, 1) not in (1, None):
                raise _unsupported(f"{path} is one of several ranks: {name} is {getattr(self.args, name)}")
        self._tensors = _weights(state["model"], path)
        self.specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach()


def iteration_folder(*, release: bool) -> str:
    return "release" if release else "iter_0000001"


def tracker_text(*, release: bool) -> str:
    return "release" if release else "1"


def find_rank_file(source: Path) -> Path:
    """The file that holds the model: ``source`` is a checkpoint directory, or one iteration inside it.

    CheckpointError if something is missing; ConfigError for a layout that this version does not read.
    """
    folder = source if (source / RANK_FILE.parent).is_dir() else source / _latest(source)
    if (folder / "metadata.json").exists():
        raise _unsupported(f"{folder} is in the torch_dist format")
    ranks = sorted(path.name for path in folder.glob("mp_rank_*"))
    if ranks and ranks != [RANK_FILE.parent.name]:
        raise _unsupported(f"{folder} is split over {len(ranks)} ranks: {', '.join(ranks[:4])}")
    if not (folder / RANK_FILE).is_file():
        raise CheckpointError("SP401", f"{folder / RANK_FILE} is missing", help="copy the checkpoint again")
    return folder / RANK_FILE


def write_checkpoint(
    tensors: TensorSource, path: Path, *, args: Namespace, iteration: int, advance: Callable[[int], None]
) -> None:
    """Write the file of one rank, tensor by tensor; ``torch.load(weights_only=True)`` can read it.

    torch.save lays the file out with holes for data, from tensors whose memory is never touched; then each record is
    filled in place. So the memory this takes is that of the largest tensor.
    """
    model = {name: torch.empty(spec.shape, dtype=spec.dtype) for name, spec in tensors.specs.items()}
    state = {"args": args, "checkpoint_version": CHECKPOINT_VERSION, "iteration": iteration, "model": model}
    with torch.serialization.skip_data():
        torch.save(state, path)
    del model, state
    records = _data_records(path)
    with path.open("r+b") as file:
        for number, (name, spec) in enumerate(tensors.specs.items()):
            tensor, record = tensors.read(name), records[number]
            assert (tuple(tensor.shape), tensor.dtype, spec.num_bytes) == (spec.shape, spec.dtype, record.size), name
            data = as_bytes(tensor)
            file.seek(record.start)
            file.write(data)
            checksum = struct.pack("<I", zlib.crc32(data))
            for position in record.checksum_positions:
                file.seek(position)
                file.write(checksum)
            advance(1)


class _Record(NamedTuple):
    """Where one tensor lies in the zip file, and where its CRC-32 is stored."""

    start: int
    size: int
    checksum_positions: tuple[int, ...]


def _data_records(path: Path) -> dict[int, _Record]:
    """Records ``data/0``, ``data/1`` ... of a file by torch.save: the tensors in the order they were pickled."""
    records = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entry = archive.start_dir
        for info in archive.infolist():
            file.seek(info.header_offset)
            local = file.read(30)
            start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
            number = info.filename.partition("/data/")[2]
            if number.isdigit():
                assert info.flag_bits & 8, "torch.save puts the checksum behind the data"
                records[int(number)] = _Record(start, info.file_size, (start + info.file_size + 4, entry + 16))
            file.seek(entry)
            entry += 46 + sum(struct.unpack("<HHH", file.read(46)[28:34]))
    return records


def _latest(source: Path) -> str:
    tracker = source / TRACKER
    if not tracker.is_file():
        raise CheckpointError(
            "SP401",
            f"{tracker} is missing",
            help="name the directory of a Megatron checkpoint; without the tracker it is unfinished",
        )
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if text.isdecimal():
        return f"iter_{int(text):07d}"
    if text != "release":
        raise CheckpointError("SP401", f"{tracker} says {text!r}", help="it should hold a number or 'release'")
    return text


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=safe_pickle)
    # a damaged pickle can fail in any way: AttributeError, IndexError, KeyError, UnicodeDecodeError ...
    except Exception as error:
        raise CheckpointError(
            "SP401",
            f"{path} cannot be read, it may be cut short: {type(error).__name__}: {error}",
            help="copy or save it again",
        ) from error
    return state if isinstance(state, dict) else {}


def _weights(model: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The entries of ``model`` that are weights; CheckpointError if one is neither that nor a known exception."""
    weights = {}
    for name, value in model.items():
        # notes of Transformer Engine (fp8 scales) beside the weights of a module; None in other modules
        if name.endswith("_extra_state"):
            continue
        if not isinstance(value, torch.Tensor) or value.dtype not in DTYPE_NAMES:
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise CheckpointError(
                "SP404", f"{name} in {path} is {kind}", help="only floating-point weights can be converted"
            )
        weights[name] = value
    return weights


def _unsupported(what: str) -> ConfigError:
    return ConfigError("SP406", what, help="this version reads legacy checkpoints of one rank: TP 1, PP 1, no VPP")
