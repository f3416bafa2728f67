"""Recomputation changes memory and time, not one bit of the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqpack.attention import cpu
from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.models.recompute import recompute
from seqpack.runtime.batch import collate

from .conftest import MakeRow, SaveModel
from .test_packed import gradients, load

LENGTHS = [9, 4, 12]


def attention_passes(
    directory: Path, granularity: str, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients, and how often a segment went through the attention kernel forward."""
    passes, flash = [0], cpu._flash

    def counted(*arguments: object, **settings: object) -> object:
        passes[0] += 1
        return flash(*arguments, **settings)

    model = load(directory)
    recompute(model.model, granularity)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "_flash", counted)
        loss = model(collate([make_row(LENGTHS)], MaskMode.BLOCK_CAUSAL))
        loss.backward()
    return loss.item(), gradients(model.model), passes[0]


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
@pytest.mark.parametrize(("granularity", "times"), [("selective", 1), ("full", 2)])
def test_the_same_to_the_last_bit(
    save_model: SaveModel,
    make_row: MakeRow,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    granularity: str,
    times: int,
) -> None:
    directory = save_model(family)
    loss, wanted, plain_passes = attention_passes(directory, "none", make_row, monkeypatch)
    again, ours, passes = attention_passes(directory, granularity, make_row, monkeypatch)
    assert plain_passes == 2 * len(LENGTHS)
    assert passes == times * plain_passes
    assert again == loss
    assert all(torch.equal(ours[name], gradient) for name, gradient in wanted.items())


def test_a_model_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        def gradient_checkpointing_enable(self, settings: object) -> None:
            raise ValueError("Model does not support gradient checkpointing.")

    with pytest.raises(ConfigError, match="does not support") as raised:
        recompute(Model(), "full")
    assert raised.value.code == "SP202"
