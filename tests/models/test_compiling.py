"""Compiled layers: a pack gives what its samples give one at a time in the stock model that is not compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seqpack.core.errors import ConfigError, DeviceError
from seqpack.core.types import MaskMode
from seqpack.models import compiling
from seqpack.models.compiling import check_compiler, compile_layers
from seqpack.models.recompute import recompute
from seqpack.runtime.batch import collate
from seqpack.train.sharding import layers_of

from .conftest import MakeRow, SaveModel
from .test_packed import backward_one_by_one, gradients, load, load_stock

DENSE = SimpleNamespace()
PACKS = ([9, 4, 12], [5], [1, 30, 2, 2])

# Inside torch's compiler, which shows them to nobody.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


def assert_packed_is_one_by_one(
    save_model: SaveModel, make_row: MakeRow, family: str, granularity: str, tolerance: float
) -> None:
    directory = save_model(family)
    stock, model = load_stock(directory), load(directory)
    recompute(model.model, granularity)  # type: ignore[arg-type]
    compile_layers(layers_of(model))
    for lengths in PACKS:
        row = make_row(lengths)
        loss = model(collate([row], MaskMode.BLOCK_CAUSAL))
        loss.backward()
        assert loss.item() == pytest.approx(backward_one_by_one(stock, [row]), rel=tolerance)
    ours, theirs = gradients(model.model), gradients(stock)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() < tolerance * theirs[name].abs().max().clamp(min=1), name


@pytest.mark.parametrize(
    ("family", "granularity"),
    [
        ("qwen2", "none"),
        pytest.param("llama", "full", marks=pytest.mark.exhaustive),
        pytest.param("mistral", "selective", marks=pytest.mark.exhaustive),
    ],
)
def test_without_the_last_stage(
    save_model: SaveModel, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, family: str, granularity: str
) -> None:
    """All of the compilation but the C++, which takes most of the time."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compiling, "COMPILER", "aot_eager")
    assert_packed_is_one_by_one(save_model, make_row, family, granularity, tolerance=1e-10)
    found = torch._dynamo.utils.counters["stats"]
    assert found["calls_captured"] > 0, "nothing was compiled"
    if granularity == "none":
        assert found["unique_graphs"] == 1  # one for all layers and all packs


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_with_the_real_compiler(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    # Norms and rotations compute in float32, where the compiled code rounds in another order.
    assert_packed_is_one_by_one(save_model, make_row, family, "none", tolerance=1e-5)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def none() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(DeviceError, match=r"no C\+\+ compiler works here") as raised:
        check_compiler("cpu", DENSE)
    assert raised.value.code == "SP514"
    with pytest.raises(DeviceError, match="not compiled for npu"):
        check_compiler("npu", DENSE)


@pytest.mark.parametrize(("config", "shared"), [(DENSE, True), (SimpleNamespace(num_local_experts=4), False)])
def test_layers_that_are_not_compiled(config: Any, shared: bool) -> None:
    with pytest.raises(ConfigError, match="--compile") as raised:
        check_compiler("cpu", config, shared_layers=shared)
    assert raised.value.code == "SP208"
