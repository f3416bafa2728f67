"""Packed training equals training one sample at a time, and samples of a pack do not see each other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.models.load import build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.models.roles import FAMILIES
from seqpack.runtime.batch import Batch, collate
from seqpack.runtime.device import select_device
from seqpack.train.loss import chunked_cross_entropy

from .conftest import VOCAB_SIZE, MakeRow, SaveModel

LENGTHS = [9, 1, 23, 2, 5]
EXACT = 1e-10


def load(directory: Path, attention: str = "flash") -> PackedLM:
    spec = resolve_model(str(directory), vocab_size=VOCAB_SIZE)
    model = build_model(spec, dtype=torch.float64, backend=select_device("cpu"))
    backend = next(backend for backend in BUILTIN_BACKENDS if backend.name == attention)
    return PackedLM(model, backend.load(), chunked_cross_entropy)


def load_stock(directory: Path) -> Any:
    """The same weights, read from disk a second time, with nothing of ours in them."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="sdpa", experts_implementation="eager"
    ).train()


def backward_one_by_one(stock: Any, rows: list[PackedSequence]) -> float:
    """Summed loss of all samples, each alone in a forward pass of the stock model; gradients add up in it."""
    total = 0.0
    for row in rows:
        bounds = row.cu_seqlens[: row.num_samples + 1].tolist()
        for start, end in pairwise(bounds):
            input_ids = torch.from_numpy(row.input_ids[start:end].astype("int64"))
            labels = torch.from_numpy(row.labels[start:end].astype("int64"))
            logits = stock(input_ids=input_ids[None], use_cache=False).logits[0]
            loss = cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE_INDEX, reduction="sum")
            loss.backward()
            total += loss.item()
    return total


def logits_one_by_one(stock: Any, row: PackedSequence) -> torch.Tensor:
    bounds = row.cu_seqlens[: row.num_samples + 1].tolist()
    samples = [torch.from_numpy(row.input_ids[start:end].astype("int64"))[None] for start, end in pairwise(bounds)]
    return torch.cat([stock(input_ids=sample, use_cache=False).logits[0] for sample in samples])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def assert_same_gradients(model: PackedLM, stock: Any) -> None:
    ours, theirs = gradients(model.model), gradients(stock)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert theirs[name].abs().max() > 0, f"{name} has no gradient to compare"
        assert (gradient - theirs[name]).abs().max() < EXACT, name


@pytest.mark.parametrize("attention", ["flash", "reference"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_by_one(
    save_model: SaveModel, make_row: MakeRow, family: str, tied: bool, attention: str
) -> None:
    directory = save_model(family, tie_word_embeddings=tied)
    model, stock = load(directory, attention), load_stock(directory)
    row = make_row(LENGTHS, num_padding=7)
    batch = collate([row], MaskMode.BLOCK_CAUSAL)
    loss = model(batch)
    loss.backward()
    with torch.no_grad():
        assert (model.logits(batch)[: sum(LENGTHS)] - logits_one_by_one(stock, row)).abs().max() < EXACT
    assert loss.item() == pytest.approx(backward_one_by_one(stock, [row]), abs=EXACT, rel=0)
    assert_same_gradients(model, stock)


def test_a_window_ends_inside_the_sample(save_model: SaveModel, make_row: MakeRow) -> None:
    """Seven tokens, a window of six and one layer: the first token does not reach the last."""
    one_layer = save_model("mistral", num_hidden_layers=1)
    before, after = logits_after_change(load(one_layer), make_row([7, 3]), MaskMode.BLOCK_CAUSAL, place=0)
    assert [place for place in range(10) if not torch.equal(before[place], after[place])] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_packs_at_once_equal_one_by_one(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    directory = save_model(family)
    model, stock = load(directory), load_stock(directory)
    rows = [make_row(LENGTHS, num_padding=3, seed=1), make_row([4, 30], seed=2), make_row([12], num_padding=1, seed=3)]
    loss = model(collate(rows[:2], MaskMode.BLOCK_CAUSAL))
    loss.backward()
    second = model(collate(rows[2:], MaskMode.BLOCK_CAUSAL))  # gradients of a second micro-batch add up
    second.backward()
    total = loss.item() + second.item()
    assert total == pytest.approx(backward_one_by_one(stock, rows), abs=EXACT, rel=0)
    assert_same_gradients(model, stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_pack_equals_the_stock_model_on_the_whole_pack(
    save_model: SaveModel, make_row: MakeRow, family: str
) -> None:
    directory = save_model(family)
    model, stock = load(directory), load_stock(directory)
    row = make_row(LENGTHS, num_padding=4)
    with torch.no_grad():
        ours = model.logits(collate([make_row([6]), row], MaskMode.CAUSAL))[6 : 6 + sum(LENGTHS)]
        theirs = stock(input_ids=torch.from_numpy(row.input_ids[None].astype("int64")), use_cache=False).logits[0]
    assert (ours - theirs[: sum(LENGTHS)]).abs().max() < EXACT


def logits_after_change(model: PackedLM, row: PackedSequence, mask: MaskMode, place: int) -> tuple[torch.Tensor, ...]:
    """Logits before and after the token at ``place`` becomes another one."""
    changed = row.input_ids.copy()
    changed[place] = 2 + (changed[place] - 1) % (VOCAB_SIZE - 2)
    assert changed[place] != row.input_ids[place]
    other = PackedSequence(changed, row.labels, row.cu_seqlens, row.num_padding)
    batches: list[Batch] = [collate([candidate], mask) for candidate in (row, other)]
    with torch.no_grad():
        before, after = (model.logits(batch) for batch in batches)
    return before, after


@pytest.mark.parametrize("attention", ["flash", "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_see_its_neighbours(
    save_model: SaveModel, make_row: MakeRow, family: str, attention: str
) -> None:
    model, row = load(save_model(family), attention), make_row(LENGTHS, num_padding=3)
    for sample, (start, end) in enumerate(pairwise(row.cu_seqlens.tolist())):
        if sample == row.num_samples:
            break
        before, after = logits_after_change(model, row, MaskMode.BLOCK_CAUSAL, start)
        outside = torch.ones(len(row), dtype=torch.bool)
        outside[start:end] = False
        assert torch.equal(before[outside], after[outside])
        assert not torch.equal(before[start:end], after[start:end])


@pytest.mark.parametrize("family", FAMILIES)
def test_under_causal_later_samples_do_see_it(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    settings = {"sliding_window": None} if family == "mistral" else {}
    model, row = load(save_model(family, **settings)), make_row(LENGTHS)
    before, after = logits_after_change(model, row, MaskMode.CAUSAL, place=3)
    assert torch.equal(before[:3], after[:3])
    assert (before[3:] != after[3:]).any(dim=1).all()
