"""Whole runs whose ranks share matrices, layers and experts: the same losses and files, across changes of layout."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from seqpack.core.errors import ConfigError
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.runtime.ranks import Ranks
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from seqpack.train.stopping import RunStopped
from tests.distributed import run_ranks

from .conftest import VOCAB_SIZE, WriteDataset
from .test_distributed import assert_same_run
from .test_resume import Raise
from .test_run import options

PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2], [6, 3], [8], [5, 5], [4], [3, 3]]
STEPS = {
    "epochs": 3,
    "global_batch_size": 4,
    "micro_batch_size": 1,
    "lr": 3e-3,
    "dtype": "float64",
    "save_interval": 2,
    "split": "70,30",
    "eval_interval": 2,
}
TP, PP, EP = "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"


def run_on(ranks: Ranks, data: Path, save: Path, layout: dict[str, Any], given: dict[str, Any], stop: int = 0) -> Any:
    """A run, or what is left of it; asked to stop in step ``stop``, it does after the next one."""
    prepared = prepare(*options(data, save, **STEPS, **given), ParallelOptions(**layout), LoraOptions(), ranks)
    try:
        execute(prepared, sinks=[Raise(stop, signal.SIGTERM)] if ranks.first else [])
    except RunStopped as stopped:
        return stopped.step
    return str(prepared.parallel)


@pytest.mark.parametrize(
    ("model", "layouts", "tolerance"),
    [
        ("tiny:qwen2", [(2, {TP: 2}), (4, {PP: 2, TP: 2}), (2, {PP: 2})], 1e-9),
        # A router computes in float32; what ranks add up of its gradients is rounded apart.
        ("tiny:mixtral", [(2, {PP: 2}), (4, {EP: 2, TP: 2}), (1, {})], 1e-6),
    ],
)
def test_a_run_that_changes_its_layout_twice(
    write_dataset: WriteDataset, tmp_path: Path, model: str, layouts: list[tuple[int, dict[str, int]]], tolerance: float
) -> None:
    data = write_dataset(PACKS, seq_length=10)
    run_on(Ranks(), data, tmp_path / "whole", {}, {"model": model})
    for number, (size, layout) in enumerate(layouts):
        given = {"model": model, "resume": tmp_path / "run" if number else None}
        last = number == len(layouts) - 1
        done = run_ranks(size, run_on, data, tmp_path / "run", layout, given, 0 if last else 2 * number + 1)
        assert last or set(done) == {2 * number + 2}
    assert_same_run(tmp_path / "run", tmp_path / "whole", tolerance)


def evaluate_on(ranks: Ranks, data: Path, folder: Path, layouts: list[dict[str, Any]], given: dict[str, Any]) -> None:
    for number, layout in enumerate(layouts):
        run_on(ranks, data, folder / str(number), layout, given)


def test_several_stages_a_process_are_evaluated_between_steps(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        "qwen2", num_hidden_layers=4, vocab_size=VOCAB_SIZE, tie_word_embeddings=True, **shape
    )
    config.save_pretrained(tmp_path / "model")
    given = {"model": str(tmp_path / "model"), "random_init": True}
    run_on(Ranks(), data, tmp_path / "whole", {}, given)
    layouts = [
        {PP: 2, "pipeline_schedule": "zero-bubble"},
        {PP: 2, "num_layers_per_virtual_pipeline_stage": 1},
        {PP: 2, "pipeline_schedule": "zero-bubble", "num_layers_per_virtual_pipeline_stage": 1},
    ]
    run_ranks(2, evaluate_on, data, tmp_path, layouts, given)
    for number in range(len(layouts)):
        assert_same_run(tmp_path / str(number), tmp_path / "whole", 1e-9)
        assert evaluations(tmp_path / str(number)) == pytest.approx(evaluations(tmp_path / "whole"), rel=1e-9)


def evaluations(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert len(found) > 1
    return found


def refuse(write_dataset: WriteDataset, tmp_path: Path, size: int, layout: dict[str, Any], **given: Any) -> ConfigError:
    data = write_dataset(PACKS, seq_length=10)
    lora = LoraOptions(lora_r=given.pop("lora_r", None))
    with pytest.raises(ConfigError) as raised:
        prepare(*options(data, tmp_path / "run", **given), ParallelOptions(**layout), lora, Ranks(0, size))
    assert raised.value.help
    return raised.value


@pytest.mark.parametrize(
    ("size", "layout", "given", "code", "message"),
    [
        (3, {TP: 3}, {}, "SP610", "--tensor-model-parallel-size 3: 2 key heads"),
        (8, {TP: 8}, {}, "SP610", "--tensor-model-parallel-size 8: 4 attention heads"),
        (3, {PP: 3}, {}, "SP610", "--pipeline-model-parallel-size 3 makes 3 stages, and the model has 2 layers"),
        (2, {PP: 2, "pipeline_schedule": "zero-bubble"}, {}, "SP610", "makes 4 stages, and the model has 2 layers"),
        (2, {PP: 2}, {"global_batch_size": 1}, "SP610", "1 micro-batches a step"),
        (2, {PP: 2, "num_layer_list": "2,1"}, {}, "SP610", "--num-layer-list 2,1: not 2 numbers"),
        (2, {PP: 2, "num_layer_list": "a"}, {}, "SP610", "--num-layer-list a: not 2 numbers"),
        (
            2,
            {PP: 2, "num_layers_per_virtual_pipeline_stage": 1},
            {},
            "SP610",
            "--num-layers-per-virtual-pipeline-stage",
        ),
        (2, {TP: 2, "num_layer_list": "1,1"}, {}, "SP028", "--num-layer-list would do nothing"),
        (2, {EP: 2}, {}, "SP610", "--expert-model-parallel-size 2: a model of family 'qwen2' has no experts"),
        (8, {EP: 8}, {"model": "tiny:mixtral"}, "SP610", "--expert-model-parallel-size 8: 4 experts"),
        (8, {EP: 4, TP: 2}, {"model": "tiny:mixtral"}, "SP610", "x --tensor-model-parallel-size 2: 4 experts"),
        (2, {EP: 4}, {"model": "tiny:mixtral"}, "SP601", "--ep 4: experts are spread over processes"),
        (3, {TP: 2}, {}, "SP601", "3 processes cannot be divided"),
        (2, {TP: 2}, {"lora_r": 2}, "SP602", "--lora-r is not there yet together with --tp"),
        (
            2,
            {PP: 2, "pipeline_schedule": "zero-bubble"},
            {"recompute_granularity": "selective"},
            "SP610",
            "--recompute-granularity selective",
        ),
    ],
)
def test_layouts_that_are_not_possible(
    write_dataset: WriteDataset,
    tmp_path: Path,
    size: int,
    layout: dict[str, Any],
    given: dict[str, Any],
    code: str,
    message: str,
) -> None:
    error = refuse(write_dataset, tmp_path, size, layout, **given)
    assert error.code == code
    assert message in error.message
