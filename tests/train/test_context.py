"""Runs whose ranks share rows: the same losses, weights and metrics as those of one process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.options.context import ContextOptions
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.plan import TrainPlan
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from seqpack.train.sharding import shard
from tests.distributed import run_ranks

from .conftest import WriteDataset
from .test_distributed import PACKS, STEPS, assert_same_run
from .test_loop import tiny_model
from .test_resume import losses
from .test_run import options

COUNTS = ("num_rows", "num_tokens", "num_targets", "num_padding", "flops")


def plan(ranks: Ranks, data: Path, save: Path, **given: Any) -> TrainPlan:
    """A run whose options may be of every group."""
    groups = []
    for group in (ParallelOptions, LoraOptions, ContextOptions):
        names = {field.name for field in dataclasses.fields(group)} & given.keys()
        groups.append(group(**{name: given.pop(name) for name in names}))
    parallel, lora, context = groups
    return prepare(*options(data, save, **given), parallel, lora, ranks, context)


def run_on(ranks: Ranks, data: Path, save: Path, given: dict[str, Any]) -> str:
    prepared = plan(ranks, data, save, **given)
    result = execute(prepared)
    assert result.num_tokens == prepared.summary().num_tokens, "tokens are counted once"
    return prepared.summary().parallel


def counts(run: Path) -> list[list[float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[line[name] for name in COUNTS] for line in lines]


@pytest.mark.parametrize(
    ("size", "given"),
    [
        (2, {"context_parallel_algo": "ring", "cp_plan": "per-document", "recompute_granularity": "selective"}),
        (2, {"context_parallel_algo": "headdoc", "loss_reduction": "sample", "recompute_granularity": "full"}),
        (4, {"context_parallel_size": 2, "dp_replicate": 2, "micro_batch_size": 2, "global_batch_size": 4}),
        (4, {"context_parallel_size": 2, "context_parallel_algo": "megatron_cp_algo", "loss_reduction": "pack"}),
        (3, {"context_parallel_algo": "hybrid", "attention_mask_type": "general"}),
    ],
)
def test_ranks_that_share_rows_train_as_one_process(
    write_dataset: WriteDataset, tmp_path: Path, size: int, given: dict[str, Any]
) -> None:
    data, given = write_dataset(PACKS, seq_length=10), {**STEPS, "context_parallel_size": size, **given}
    alone = {name: given[name] for name in given.keys() & {*STEPS, "micro_batch_size", "loss_reduction"}}
    run_on(Ranks(), data, tmp_path / "one", alone)
    (layout,) = set(run_ranks(size, run_on, data, tmp_path / "many", given))
    assert f"cp {given['context_parallel_size']}" in layout
    assert_same_run(tmp_path / "many", tmp_path / "one")
    assert counts(tmp_path / "many") == counts(tmp_path / "one")


def test_lower_triangles_adapters_and_held_out_rows(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset([*PACKS, [5, 5], [4], [3, 3]], seq_length=10, mask=MaskMode.CAUSAL)
    given = {**STEPS, "lora_r": 3, "eval_interval": 2, "split": "70,30"}
    run_on(Ranks(), data, tmp_path / "one", given)
    run_ranks(2, run_on, data, tmp_path / "two", {**given, "context_parallel_size": 2})
    for ours, wanted in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-9)
    found, expected = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("two", "one"))
    assert all(torch.allclose(weight, expected[name], atol=1e-8) for name, weight in found.items())
    evaluations = [
        [
            line["eval_loss"]
            for line in map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
            if "eval_loss" in line
        ]
        for run in ("two", "one")
    ]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-9)
    assert len(evaluations[0]) > 1


def test_a_run_goes_on_with_another_number_of_ranks_to_a_row(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    run_on(Ranks(), data, tmp_path / "one", STEPS)
    first = {**STEPS, "context_parallel_size": 2, "save_interval": 2}
    run_ranks(2, run_on, data, tmp_path / "two", first)
    for step in (tmp_path / "two").glob("step-[3-9]"):
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    run_on(Ranks(), data, tmp_path / "two", {**STEPS, "resume": tmp_path / "two"})
    assert_same_run(tmp_path / "two", tmp_path / "one")


def pieces(ranks: Ranks, replicate: int, cp: int) -> list[int]:
    """Elements of each weight that this rank holds."""
    layout = ParallelPlan.of(ranks.size, dp_replicate=replicate, cp=cp)
    model = tiny_model()
    shard(model, layout, layout.mesh("cpu"), torch.float32)
    return [parameter.to_local().numel() for parameter in model.parameters()]  # type: ignore[attr-defined]


def test_ranks_that_share_rows_hold_pieces_of_the_weights_too() -> None:
    whole = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert sum(map(sum, run_ranks(4, pieces, 1, 2))) == whole
    assert sum(map(sum, run_ranks(4, pieces, 2, 2))) == 2 * whole


def test_prices_of_a_run(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset([[60, 4], [30, 30, 4]], seq_length=64)
    assert plan(Ranks(), data, tmp_path / "run").context_prices() == []
    layout = Ranks(0, 4)
    prices = {
        price.algorithm: price for price in plan(layout, data, tmp_path / "r", context_parallel_size=4).context_prices()
    }
    assert list(prices) == ["headdoc", "planned", "ulysses", "ring", "hybrid", "kvallgather"]
    assert sum(price.taken for price in prices.values()) == pytest.approx(1)
    assert prices["planned"].bytes_sent < prices["kvallgather"].bytes_sent
    assert all(price.worst_balance >= price.balance >= 1 for price in prices.values())
    fast = plan(layout, data, tmp_path / "r", context_parallel_size=4, cp_device="npu").context_prices()
    assert all(price.seconds < prices[price.algorithm].seconds for price in fast)
    slow = plan(layout, data, tmp_path / "r", context_parallel_size=4, cp_link=1e-4).context_prices()
    assert all(price.seconds > prices[price.algorithm].seconds for price in slow)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"cp_plan": "zigzag", "context_parallel_algo": "ulysses"}, "SP208", "--cp-plan zigzag is for"),
        ({"cp_window_size": 2, "context_parallel_algo": "headdoc"}, "SP208", "hybrid and ring, not headdoc"),
        ({"ulysses_degree_in_cp": 2, "context_parallel_algo": "ring"}, "SP208", "hybrid, not ring"),
        ({"cp_link": 0.0}, "SP208", "--cp-link is 0"),
        ({"attention_mask_type": "general", "attention": "flash"}, "SP208", "--attention flash"),
        ({"ulysses_degree_in_cp": 3}, "SP605", "--ulysses-degree-in-cp 3"),
        ({"cp_window_size": 3, "context_parallel_algo": "ring"}, "SP605", "--cp-window-size 3"),
        ({"context_parallel_size": 3}, "SP601", "4 processes cannot be divided"),
    ],
)
def test_what_does_not_fit(
    write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any], code: str, words: str
) -> None:
    data = write_dataset(PACKS, seq_length=10)
    with pytest.raises(ConfigError, match=words) as raised:
        plan(Ranks(0, 4), data, tmp_path / "run", **{"context_parallel_size": 4, **given})
    assert raised.value.code == code
    assert raised.value.help


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--cp-plan", {"cp_plan": "contiguous"}),
        ("--cp-window-size", {"cp_window_size": 2}),
        ("--ulysses-degree-in-cp", {"ulysses_degree_in_cp": 2}),
        ("--cp-link", {"cp_link": 5.0}),
        ("--cp-device", {"cp_device": "npu"}),
    ],
)
def test_flags_about_shared_rows_where_none_are(
    write_dataset: WriteDataset, tmp_path: Path, flag: str, given: dict[str, Any]
) -> None:
    data = write_dataset(PACKS, seq_length=10)
    with pytest.raises(ConfigError, match=f"{flag} would do nothing: no processes share rows") as raised:
        plan(Ranks(0, 2), data, tmp_path / "run", **given)
    assert raised.value.code == "SP028"
    resumed = plan(Ranks(0, 2), data, tmp_path / "run", resume=tmp_path / "run", num_layer_list="1,1", **given)
    assert resumed.context is None and resumed.cut is None, "a run may go on in a layout that has no use for them"


def test_an_algorithm_without_ranks_to_share_rows_is_noted() -> None:
    options = ContextOptions(context_parallel_algo="ring")
    assert options.notes(1) == ["no effect, no processes share rows: --context-parallel-algo"]
    assert options.notes(2) == ContextOptions().notes(1) == []


def test_a_backend_without_parts_is_refused_for_rings(write_dataset: WriteDataset, tmp_path: Path) -> None:
    from seqpack.attention.contract import AttentionNeeds
    from seqpack.attention.registry import BUILTIN_BACKENDS

    whole_only = next(backend for backend in BUILTIN_BACKENDS if backend.load_partial is None)
    needs = AttentionNeeds("cuda", "bfloat16", MaskMode.BLOCK_CAUSAL, partial=True)
    assert "ring and hybrid" in whole_only.lacks(needs)
