"""Verification must fail when it should: every stored tensor is damaged once, and every copy of it is looked at."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from seqpack.convert.copying import OpenFiles, fill
from seqpack.convert.plan import make_plan
from seqpack.convert.source import Source, open_huggingface
from seqpack.convert.target import Target, megatron_target, target_dtypes
from seqpack.convert.tensors import Tensor
from seqpack.convert.verify import in_model_directory, verify
from seqpack.core.errors import CheckpointError

from .conftest import make_model, options

SPLITS: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"tp": 2, "pp": 2, "tie_word_embeddings": True}),
    ("qwen3", {"tp": 4}),
    ("mixtral", {"tp": 2, "ep": 2}),
    ("mixtral", {"tp": 2, "ep": 2, "moe_grouped_gemm": True}),
    ("mixtral", {"tp": 2, "ep": 2, "expert_tp": 1}),
]


def written(tmp_path: Path, family: str, split: dict[str, Any]) -> tuple[Source, Target, Any]:
    tied = split.pop("tie_word_embeddings", False)
    model = make_model(tmp_path / "in", family, tie_word_embeddings=tied)
    source = open_huggingface(model)
    target = megatron_target(options(model, "mcore", tmp_path, **split), source)
    plan = make_plan(source.tensors, target.tensors)
    (tmp_path / "out").mkdir()
    draft = target.create(tmp_path / "out", target_dtypes(plan, source.places, None))
    draft.close(fill(plan, source.places, draft.places))
    return source, target, draft


def run(source: Source, target: Target, draft: Any) -> dict[str, str]:
    assert target.layout is not None and target.form is not None
    return verify(
        source.model,
        (in_model_directory(source.model), source.places),
        (target.layout.find(source.model, target.form), draft.places),
        lambda count: None,
    )


def flip(draft: Any, tensor: Tensor, element: int) -> None:
    """Change the lowest bit of one element."""
    place = draft.places[tensor.key]
    with place.path.open("r+b") as file:
        file.seek(place.offset + element * place.dtype.size)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def elements_that_count(tensor: Tensor) -> list[int]:
    """The first and the last element that are no padding."""
    real = [piece for piece in tensor.pieces if not piece.is_padding]
    last = real[-1]
    end = (last.at_row + last.height - 1) * tensor.columns + last.at_column + last.width - 1
    return [real[0].at_row * tensor.columns + real[0].at_column, end]


@pytest.mark.parametrize(("family", "split"), SPLITS)
def test_one_bit_in_any_tensor_is_enough(tmp_path: Path, family: str, split: dict[str, Any]) -> None:
    source, target, draft = written(tmp_path, family, dict(split))
    assert run(source, target, draft).keys() == dict(source.model.huggingface()).keys()
    unseen = []
    # a layer and what is outside of layers, on all ranks: other layers are the same again
    for tensor in target.tensors:
        if "layers.1." in tensor.key.name:
            continue
        for element in elements_that_count(tensor):
            flip(draft, tensor, element)
            with contextlib.suppress(CheckpointError):
                run(source, target, draft)
                unseen.append((str(tensor.key), element))
            flip(draft, tensor, element)
    assert unseen == []


def test_a_file_that_was_cut_is_noticed(tmp_path: Path) -> None:
    source, target, draft = written(tmp_path, "llama", {})
    path = next(iter(draft.places.values())).path
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError) as caught:
        run(source, target, draft)
    assert caught.value.code == "SP401"


def test_a_read_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "a").write_bytes(b"123")
    with OpenFiles() as files, pytest.raises(CheckpointError, match="cut short"):
        files.read(tmp_path / "a", 1, np.empty(3, np.uint8))
