"""Files as torch writes and reads them, made and read without torch."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.convert.dtypes import DType
from seqpack.convert.torch_layout import FILE, StoredRanks
from seqpack.convert.torch_pickle import PickledTensor, TorchDType, dumps, loads
from seqpack.convert.torch_zip import TorchZip, record_starts
from seqpack.core.errors import CheckpointError

ARGS = Namespace(
    a=1, b=None, c=1.5, d="é模", e=True, f=TorchDType("bfloat16"), g=[1, "x"], h=2**40, i=(), j=-3, k=-(2**31) - 1, l={}
)


def write(path: Path, *, base: int = 0) -> dict[str, Any]:
    """A file with two tensors; gives what torch should make of it."""
    one, other = torch.arange(35, dtype=torch.int16).reshape(5, 7), torch.ones(3)
    data = [one.numpy().tobytes(), other.numpy().tobytes()]
    state = {
        "args": ARGS,
        "model": {"a": PickledTensor("0", DType.BF16, (5, 7)), "b": PickledTensor("1", DType.F32, (3,))},
    }
    archive = TorchZip(dumps(state), [len(each) for each in data], base=base)
    path.write_bytes(b"")
    os.truncate(path, base + archive.num_bytes)
    with path.open("r+b") as file:
        for start, each in zip(archive.tensor_starts, data, strict=True):
            assert (start - base) % 64 == 0
            file.seek(start)
            file.write(each)
    archive.close(path, [zlib.crc32(each) for each in data])
    assert path.stat().st_size == base + archive.num_bytes
    return {"a": one.view(torch.bfloat16), "b": other}


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(tmp_path: Path, mmap: bool) -> None:
    expected = write(tmp_path / "a.pt")
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    assert all(torch.equal(state["model"][name], expected[name]) for name in expected)
    assert vars(state["args"]) == vars(ARGS) | {"f": torch.bfloat16}
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None


def test_a_file_of_more_than_4_gigabytes(tmp_path: Path) -> None:
    """It is nearly all hole. torch reads a tensor that is larger than 4 GB, and one that lies behind it."""
    size = 5 * 2**30
    state = {"model": {"a": PickledTensor("0", DType.F32, (size // 4,)), "b": PickledTensor("1", DType.F32, (2,))}}
    archive = TorchZip(dumps(state), [size, 8])
    path = tmp_path / "large.pt"
    path.write_bytes(b"")
    os.truncate(path, archive.num_bytes)
    with path.open("r+b") as file:
        file.seek(archive.tensor_starts[1])
        file.write(torch.tensor([1.0, 2.0]).numpy().tobytes())
    archive.close(path, [0, 0])
    model = torch.load(path, weights_only=True, mmap=True)["model"]
    assert model["a"].shape == (size // 4,)
    assert model["b"].tolist() == [1.0, 2.0]
    assert record_starts(path)["archive/data/1"] == (archive.tensor_starts[1], 8)


def test_a_file_is_none_before_it_is_closed(tmp_path: Path) -> None:
    archive = TorchZip(dumps({}), [100])
    (tmp_path / "a.pt").write_bytes(b"\0" * archive.num_bytes)
    with pytest.raises(CheckpointError):
        record_starts(tmp_path / "a.pt")
    with pytest.raises(Exception, match="legacy"):
        torch.load(tmp_path / "a.pt", weights_only=True)


def test_several_streams_in_one_file(tmp_path: Path) -> None:
    """As in a file of torch_dist, where each item is a stream of its own."""
    expected = write(tmp_path / "a.distcp", base=1000)
    with (tmp_path / "a.distcp").open("rb") as file, torch.serialization.safe_globals([Namespace]):
        file.seek(1000)
        (tmp_path / "b.pt").write_bytes(file.read())
        state = torch.load(tmp_path / "b.pt", weights_only=True)
    assert torch.equal(state["model"]["b"], expected["b"])


@pytest.mark.parametrize("compatible", [True, False])
def test_what_torch_writes_is_read(tmp_path: Path, compatible: bool) -> None:
    """Views share the storage of their base; parameters are tensors."""
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "decoder.whole": base,
        "decoder.rows": base[1:3],
        "decoder.columns": base[:, 2:4],
        "decoder.parameter": torch.nn.Parameter(base.clone()),
        "decoder.half": base.to(torch.bfloat16),
    }
    (tmp_path / "mp_rank_00").mkdir()
    torch.save(
        {"args": ARGS, "model": tensors},
        tmp_path / "mp_rank_00/model_optim_rng.pt",
        pickle_protocol=2 if compatible else 4,
    )
    places = {key.name: place for key, place in StoredRanks.read(tmp_path).places.items()}
    for name, tensor in tensors.items():
        place = places[f"model/{name}"]
        assert (place.shape, place.dtype.torch) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        width = place.dtype.size
        raw = place.path.read_bytes()
        rows = [
            raw[place.offset + row * place.row_stride * width :][: tensor.shape[1] * width]
            for row in range(tensor.shape[0])
        ]
        assert b"".join(rows) == bytes(tensor.detach().contiguous().view(torch.uint8).flatten().tolist())


def test_a_transposed_view_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mp_rank_00").mkdir()
    torch.save({"model": {"decoder.t": torch.ones(4, 6).t()}}, tmp_path / "mp_rank_00/model_optim_rng.pt")
    with pytest.raises(CheckpointError, match="transposed view") as caught:
        StoredRanks.read(tmp_path)
    assert caught.value.code == "SP404"


def test_pickles_are_read_as_they_were_written() -> None:
    state = {"args": ARGS, "x": [PickledTensor("0", DType.F32, (2, 3), stride=(3, 1))]}
    assert loads(dumps(state)) == state


@pytest.mark.parametrize("shape", [(3, 4), (2, 7), (13,)])
def test_a_tensor_that_is_larger_than_its_data_does_not_take_its_neighbours(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "mp_rank_00" / FILE
    path.parent.mkdir()
    for stored, is_whole in ((math.prod(shape), True), (math.prod(shape) - 1, False)):
        tensors = {"first": PickledTensor("0", DType.F32, shape), "second": PickledTensor("1", DType.F32, (50,))}
        archive = TorchZip(dumps({"model": tensors}), [4 * stored, 200])
        path.write_bytes(bytes(archive.num_bytes))
        archive.close(path, [0, 0])
        if is_whole:
            assert len(StoredRanks.read(tmp_path).places) == 2
        else:
            with pytest.raises(CheckpointError, match=r"model/first in .* is larger than its data") as caught:
                StoredRanks.read(tmp_path)
            assert caught.value.code == "SP401"
