"""Whole models on ranks that share rows: the loss and every gradient are those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
import torch.distributed as dist

from seqpack.attention.cpu import CpuPartial, cpu_flash_attention
from seqpack.core.errors import DistributedError
from seqpack.core.types import IGNORE_INDEX, MaskMode, PackedSequence
from seqpack.cp.context import ContextParallel
from seqpack.cp.exchange import Wire
from seqpack.cp.kernels import Kernels
from seqpack.models.load import build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.runtime.batch import Batch, collate
from seqpack.runtime.device import select_device
from seqpack.runtime.ranks import Ranks
from seqpack.train.loss import chunked_cross_entropy
from tests.distributed import run_ranks

from .cases import ALGORITHMS, DOCUMENTS, planner

VOCAB_SIZE = 61
EXACT = 1e-11
HOUR = 3600.0
SOME = [("ring", "zigzag"), ("ring", "per-document"), *ALGORITHMS[4:5], *ALGORITHMS[8:]]
"""What the default run tries on models: each algorithm, and the plan that cuts most."""


@cache
def tiny(family: str, heads: tuple[int, int]) -> PackedLM:
    spec = resolve_model(f"tiny:{family}", vocab_size=VOCAB_SIZE)
    for name, value in {
        "hidden_size": 24,
        "intermediate_size": 16,
        "moe_intermediate_size": 16,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 6,
        "initializer_range": 0.3,
    }.items():
        setattr(spec.config, name, value)
    if family == "mistral":
        spec.config.sliding_window = 6
    model = build_model(spec, dtype=torch.float64, backend=select_device("cpu"))
    return PackedLM(model, cpu_flash_attention, chunked_cross_entropy)


def pack(lengths: Sequence[int], num_padding: int) -> PackedSequence:
    rng = np.random.default_rng(0)
    total = sum(lengths)
    input_ids = np.concatenate([rng.integers(2, VOCAB_SIZE, total), np.zeros(num_padding)]).astype(np.int32)
    labels = np.where(
        (rng.random(len(input_ids)) < 0.3) | (np.arange(len(input_ids)) >= total), IGNORE_INDEX, input_ids
    )
    ends = np.cumsum([*lengths, *([num_padding] if num_padding else [])])
    return PackedSequence(input_ids, labels.astype(np.int32), np.append(0, ends).astype(np.int32), num_padding)


def step(model: PackedLM, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and all gradients, summed over ranks if these share the batch."""
    model.zero_grad()
    loss = model(batch) / 7
    loss.backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    found = torch.cat([loss.detach().view(1), *(grad.flatten() for grad in grads.values())])
    if batch.shared is not None:
        dist.all_reduce(found)
    return found[:1], dict(zip(grads, found[1:].split([grad.numel() for grad in grads.values()]), strict=True))


def differs(model: PackedLM, context: ContextParallel, batch: Batch, expected: tuple) -> str:  # type: ignore[type-arg]
    """What the ranks get otherwise than one process; empty if nothing."""
    mine = context.shard(batch)
    assert (mine.num_tokens, mine.loss_units) == (batch.num_tokens, batch.loss_units)
    loss, grads = step(model, mine)
    if not (off := (loss - expected[0]).abs().item()) < EXACT:
        return f"loss off by {off:.1e}"
    worst = max(grads, key=lambda name: (grads[name] - expected[1][name]).abs().max().item())
    off = (grads[worst] - expected[1][worst]).abs().max().item()
    return "" if off < EXACT else f"{worst} off by {off:.1e}"


def failures(
    ranks: Ranks,
    families: Sequence[str],
    rows: Sequence[str],
    heads: Sequence[tuple[int, int]],
    masks: Sequence[MaskMode],
    algorithms: Sequence[tuple[str, str]],
) -> list[str]:
    if ranks.size == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    kernels, found, tried = Kernels(cpu_flash_attention, CpuPartial()), [], 0
    for family in families:
        for number in heads:
            model = tiny(family, number)
            for name in rows:
                for mask in masks:
                    reduction = "sample" if name == "mixed" else "token"
                    lengths = DOCUMENTS[name]
                    # Two packs side by side, the first with padding that no sample sees.
                    batch = collate(
                        [pack(lengths, 5), pack([4, 1], 0)][: 1 + (name == "odd")], mask, reduction=reduction
                    )  # type: ignore[arg-type]
                    expected = step(model, batch)
                    assert all(grad.abs().max() > 0 for grad in expected[1].values()) or batch.num_targets < 3
                    for algorithm, placement in algorithms:
                        plans = planner(ranks.size, algorithm, placement, number)
                        context = ContextParallel(plans, Wire.of(), kernels, torch.device("cpu"))
                        tried += 1
                        if what := differs(model, context, batch, expected):
                            found.append(f"{family} {number} {name} {mask} {algorithm} {placement}: {what}")
    assert tried
    if ranks.size == 1:
        dist.destroy_process_group()
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_models_train_as_on_one_process(size: int) -> None:
    cases = (["qwen3"], ["mixed", "empty ranks"], [(4, 2)], [MaskMode.BLOCK_CAUSAL], SOME)
    assert run_ranks(size, failures, *cases) == [[]] * size


@pytest.mark.parametrize(
    ("family", "mask"),
    [("mistral", MaskMode.BLOCK_CAUSAL), ("qwen3_moe", MaskMode.CAUSAL), ("mixtral", MaskMode.BLOCK_CAUSAL)],
)
def test_windows_experts_and_lower_triangles_too(family: str, mask: MaskMode) -> None:
    assert run_ranks(3, failures, [family], ["odd"], [(4, 2)], [mask], SOME) == [[]] * 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_every_combination(size: int) -> None:
    heads = [(4, 4), (4, 2), (4, 1)]
    cases = (["qwen3"], list(DOCUMENTS), heads, [MaskMode.BLOCK_CAUSAL], ALGORITHMS)
    assert run_ranks(size, failures, *cases, seconds=HOUR) == [[]] * size


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "qwen3_moe", "mixtral"])
def test_every_family(size: int, family: str) -> None:
    rows = ["mixed", "odd"]
    cases = ([family], rows, [(4, 2)], list(MaskMode), ALGORITHMS)
    assert run_ranks(size, failures, *cases, seconds=HOUR) == [[]] * size


def shards(ranks: Ranks) -> list[Batch]:
    context = ContextParallel(planner(ranks.size, "ring"), Wire.of(), Kernels(cpu_flash_attention), torch.device("cpu"))
    mine = context.shard(collate([pack([6, 2], 2)], MaskMode.BLOCK_CAUSAL, reduction="sample"))
    assert mine.loss_weights is not None
    return [
        mine.input_ids[0].tolist(),
        mine.labels[0].tolist(),
        mine.position_ids[0].tolist(),
        mine.is_real[0].tolist(),
        mine.loss_weights[0].tolist(),
        mine.segments.cu_seqlens.tolist(),
    ]  # type: ignore[return-value]


def test_what_a_rank_holds_follows_the_plan() -> None:
    """Zigzag on two ranks: the first has tokens 0, 1 and 7 to 9, the second 2 to 6; labels are of the next token."""
    whole = collate([pack([6, 2], 2)], MaskMode.BLOCK_CAUSAL, reduction="sample")
    assert whole.loss_weights is not None
    parts = run_ranks(2, shards)
    for rows, part in zip(([0, 1, 7, 8, 9], [2, 3, 4, 5, 6]), parts, strict=True):
        tensors = (whole.input_ids, whole.labels, whole.position_ids, whole.is_real, whole.loss_weights)
        assert part[:5] == [tensor[0, rows].tolist() for tensor in tensors]
    assert [part[5] for part in parts] == [[0, 2, 3, 5], [0, 4, 5]]


def mismatch(ranks: Ranks, planted: str) -> str:
    """The error when rank 1 has another ``planted``: boundaries, token or algorithm."""
    lengths = [5, 3] if planted == "boundaries" and ranks.rank == 1 else [6, 2]
    row = pack(lengths, 0)
    if planted == "token" and ranks.rank == 1:
        row.input_ids[0] += 1
    algorithm = "ring" if planted == "algorithm" and ranks.rank == 1 else "ulysses"
    kernels = Kernels(cpu_flash_attention, CpuPartial())
    context = ContextParallel(planner(ranks.size, algorithm), Wire.of(), kernels, torch.device("cpu"))
    try:
        context.shard(collate([row], MaskMode.BLOCK_CAUSAL))
    except DistributedError as error:
        return error.code
    return ""


@pytest.mark.parametrize("planted", ["nothing", "boundaries", "token", "algorithm"])
def test_ranks_that_disagree_stop(planted: str) -> None:
    assert run_ranks(2, mismatch, planted) == ["" if planted == "nothing" else "SP604"] * 2
