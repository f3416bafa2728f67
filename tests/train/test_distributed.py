"""Several processes train as one: the same gradients, losses and weights, with rows that do not divide among them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.types import MaskMode
from seqpack.models.load import build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.runtime.batch import collate
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import accumulate_gradients
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from seqpack.train.sharding import shard, whole
from seqpack.train.stopping import RunStopped
from tests.distributed import run_ranks

from .conftest import VOCAB_SIZE, WriteDataset
from .test_loop import CPU, make_rows
from .test_resume import losses
from .test_run import options

ROWS = make_rows([[9, 4, 1], [14], [2, 5, 6], [3, 3], [20, 1, 12, 7], [8], [2, 2]])
PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2], [6, 3], [8]]
STEPS = {"epochs": 2, "global_batch_size": 3, "micro_batch_size": 1, "lr": 3e-3, "dtype": "float64"}


def step_on(
    ranks: Ranks, family: str, tied: bool, micro: int, reduction: str, replicate: int = 1
) -> tuple[float, int, dict[str, np.ndarray]]:
    """Loss, micro-batches of this rank and whole gradients of one step over all rows."""
    spec = resolve_model(f"tiny:{family}", vocab_size=VOCAB_SIZE)
    spec.config.tie_word_embeddings = tied
    model = PackedLM(build_model(spec, dtype=torch.float64, backend=CPU), cpu_flash_attention, chunked_cross_entropy)
    plan = ParallelPlan.of(ranks.size, dp_replicate=replicate)
    if ranks.size > 1:
        shard(model, plan, plan.mesh("cpu"), torch.float64)
    alone = [collate([row], MaskMode.BLOCK_CAUSAL, reduction=reduction) for row in ROWS]  # type: ignore[arg-type]
    targets, units = (np.array([getattr(batch, name) for batch in alone]) for name in ("num_targets", "loss_units"))
    batch = -(-len(ROWS) // micro) * micro
    schedule = RowSchedule(targets, global_batch_size=batch, micro_batch_size=micro, seed=0, epochs=1, loss_units=units)
    reader = BatchReader(ROWS, MaskMode.BLOCK_CAUSAL, reduction=reduction)  # type: ignore[arg-type]
    part, batches, _ = accumulate_gradients(model, schedule[0], reader, CPU.device, plan.row_share(ranks.rank))
    (loss,) = ranks.sum([part.item()], CPU.device)
    gradients = {name: whole(p.grad).numpy() for name, p in model.named_parameters() if p.grad is not None}
    return loss, len(batches), gradients


def assert_same_step(size: int, *arguments: Any, replicate: int = 1) -> None:
    wanted_loss, _, wanted = step_on(Ranks(), *arguments)
    found = run_ranks(size, step_on, *arguments, replicate)
    assert len({batches for _, batches, _ in found}) == 1, "ranks would wait for each other"
    for loss, _, gradients in found:
        assert loss == pytest.approx(wanted_loss, abs=1e-12)
        assert gradients.keys() == wanted.keys()
        for name, gradient in gradients.items():
            assert np.abs(wanted[name]).max() > 0
            assert np.abs(gradient - wanted[name]).max() < 1e-12, name


@pytest.mark.parametrize(
    ("size", "family", "tied", "micro", "reduction"),
    [
        (2, "qwen2", True, 1, "token"),
        (2, "llama", False, 2, "sample"),
        (2, "mixtral", False, 2, "token"),  # with its router loss
        (4, "qwen2", False, 1, "token"),
        (4, "qwen3", True, 3, "pack"),  # three micro-batches for four ranks: one has nothing of its own
    ],
)
def test_gradients_are_those_of_one_process(size: int, family: str, tied: bool, micro: int, reduction: str) -> None:
    assert_same_step(size, family, tied, micro, reduction)


def test_groups_that_each_hold_the_model() -> None:
    assert_same_step(4, "qwen2", True, 1, "token", replicate=2)


class Interrupt:
    """Signals one rank after a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None: ...


def run_on(ranks: Ranks, data: Path, save: Path, given: dict[str, Any], interrupt: bool = False) -> Any:
    """A whole run; what the header said of it, or the step it stopped after."""
    lora = LoraOptions(lora_r=given.get("lora_r"))
    given = {name: value for name, value in given.items() if name != "lora_r"}
    prepared = prepare(*options(data, save, **given), ParallelOptions(), lora, ranks)
    try:
        result = execute(prepared, sinks=[Interrupt()] if interrupt and ranks.rank == 0 else [])
    except RunStopped as stopped:
        return stopped.step, stopped.signum
    summary = prepared.summary()
    assert (result.num_steps, result.num_tokens, result.num_targets) == (
        summary.num_steps,
        summary.num_tokens,
        summary.num_targets,
    )
    return summary.parallel


def assert_same_run(run: Path, wanted: Path, tolerance: float = 1e-9) -> None:
    for ours, theirs in zip(losses(run), losses(wanted), strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    weights, expected = (load_file(path / "model" / "model.safetensors") for path in (run, wanted))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=max(tolerance, 1e-8))


@pytest.fixture
def whole_run(write_dataset: WriteDataset, tmp_path: Path) -> tuple[Path, Path]:
    """A data set of seven packs and a run of one process on it, three packs a step."""
    data = write_dataset(PACKS, seq_length=10)
    run_on(Ranks(), data, tmp_path / "whole", STEPS)
    return data, tmp_path / "whole"


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_that_does_not_divide(whole_run: tuple[Path, Path], tmp_path: Path, size: int) -> None:
    data, whole_path = whole_run
    assert run_ranks(size, run_on, data, tmp_path / "run", STEPS) == [f"dp {size}"] * size
    assert_same_run(tmp_path / "run", whole_path)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_resumed_with_another_number_of_ranks(
    whole_run: tuple[Path, Path], tmp_path: Path, before: int, after: int
) -> None:
    data, whole_path = whole_run
    run = tmp_path / "run"
    # One rank is asked to stop: all finish the step after, save and stop.
    given = {**STEPS, "save_interval": 1}
    stopped = run_ranks(before, run_on, data, run, given, True)
    assert stopped == [(3, signal.SIGTERM)] * before
    assert sorted(path.name for path in run.glob("step-*")) == ["step-2", "step-3"]
    run_ranks(after, run_on, data, run, {**given, "resume": run})
    assert_same_run(run, whole_path)


def test_bfloat16_keeps_float32_masters(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    given = {**STEPS, "dtype": "bfloat16"}
    run_on(Ranks(), data, tmp_path / "one", given)
    run_ranks(2, run_on, data, tmp_path / "two", given)
    for ours, wanted in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours[:2] == pytest.approx(wanted[:2], rel=2e-2)
    weights = load_file(tmp_path / "two" / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights  # it is the embedding


def test_adapters_of_two_ranks_are_those_of_one(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data, given = write_dataset(PACKS, seq_length=10), {**STEPS, "lora_r": 3}
    run_on(Ranks(), data, tmp_path / "one", given)
    run_ranks(2, run_on, data, tmp_path / "two", given)
    for ours, wanted in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(wanted, rel=1e-9)
    found, expected = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("two", "one"))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(weight, expected[name], atol=1e-8) for name, weight in found.items())


def test_recomputation_and_evaluation_on_two_ranks(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset([*PACKS, [5, 5], [4], [3, 3]], seq_length=10)
    given = {
        **STEPS,
        "recompute_granularity": "selective",
        "eval_interval": 2,
        "split": "70,30",
        "loss_reduction": "sample",
    }
    run_on(Ranks(), data, tmp_path / "one", given)
    run_ranks(2, run_on, data, tmp_path / "two", given)
    assert_same_run(tmp_path / "two", tmp_path / "one")
    evaluations = []
    for run in ("one", "two"):
        lines = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        evaluations.append([line["eval_loss"] for line in lines if "eval_loss" in line])
    assert len(evaluations[0]) > 1
    assert evaluations[1] == pytest.approx(evaluations[0], rel=1e-9)


def die(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os._exit(9)
    ranks.wait()


def test_a_rank_that_dies_is_seen_by_the_others() -> None:
    with pytest.raises(AssertionError, match=r"rank 1: it died|rank 0 lost the others"):
        run_ranks(2, die)
