"""Runs from options to files."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqpack.core.errors import ConfigError, DataError, SeqpackError
from seqpack.core.types import MaskMode
from seqpack.options.train import ModelOptions, RunOptions, TrainDataOptions, TrainOptions
from seqpack.train.loader import RowSchedule
from seqpack.train.plan import TrainPlan
from seqpack.train.prepare import prepare
from seqpack.train.run import execute

from .conftest import WriteDataset, write_tokenizer

PACKS = [[5, 3, 1], [9], [4, 4], [7], [2, 2, 2]]
GROUPS: tuple[type, ...] = (TrainDataOptions, ModelOptions, TrainOptions, RunOptions)


def options(data: Path, save: Path, **given: Any) -> list[Any]:
    """The four option groups; each value goes to the group that has a field of its name."""
    values = {"data_path": [str(data)], "model": "tiny:qwen2", "save": save, "global_batch_size": 2, **given}
    groups = []
    for group in GROUPS:
        names = {field.name for field in dataclasses.fields(group)}
        groups.append(group(**{name: values.pop(name) for name in names & values.keys()}))
    assert not values
    return groups


def plan(data: Path, save: Path, **given: Any) -> TrainPlan:
    return prepare(*options(data, save, **given))


def test_a_run_from_end_to_end(write_dataset: WriteDataset, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    prepared = plan(write_dataset(PACKS, seq_length=10), tmp_path / "run", epochs=2)
    summary = prepared.summary()
    result = execute(prepared)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == result.num_steps == summary.num_steps == 5
    assert result.num_tokens == sum(line["num_tokens"] for line in lines) == 2 * sum(map(sum, PACKS))
    assert result.num_padding == 2 * (10 * len(PACKS) - sum(map(sum, PACKS)))
    assert (summary.num_tokens, summary.num_targets) == (result.num_tokens, result.num_targets)
    assert result.model_path == str(tmp_path / "run" / "model")
    model = AutoModelForCausalLM.from_pretrained(result.model_path)
    assert model.config.eos_token_id == 1
    assert (tmp_path / "run" / "model" / "tokenizer.json").exists()


def test_a_trained_model_can_be_trained_on(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    first = execute(plan(data, tmp_path / "a", train_iters=40, lr=3e-3, global_batch_size=5))
    second = plan(data, tmp_path / "b", model=first.model_path, global_batch_size=5)
    assert not second.summary().random_weights
    assert second.peak_lr < 1e-4
    assert execute(second).first_loss == pytest.approx(first.last_loss, rel=0.3)


@pytest.mark.parametrize("given", [{"attention": "reference"}, {"micro_batch_size": 2}])
def test_what_must_not_change_the_numbers(write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any]) -> None:
    data = write_dataset(PACKS, seq_length=10)
    plain = execute(plan(data, tmp_path / "a", dtype="float64"))
    other = execute(plan(data, tmp_path / "b", dtype="float64", **given))
    assert other.last_loss == pytest.approx(plain.last_loss, rel=1e-7)


def test_kernels_are_told_and_change_no_number(
    write_dataset: WriteDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from seqpack.models import torch_kernels

    calls, rms_norm = [0], torch_kernels.rms_norm

    def counted(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        return rms_norm(*arguments)

    monkeypatch.setattr(torch_kernels, "rms_norm", counted)
    data, found = write_dataset(PACKS, seq_length=10), {}
    for name in ("none", "torch"):
        prepared = plan(data, tmp_path / name, dtype="float64", kernels=name)
        assert any("--kernels" in note for note in prepared.summary().notes) == (name == "torch")
        calls[0] = 0
        execute(prepared)
        assert calls[0] == (0 if name == "none" else 5 * len(PACKS))  # two layers and the last norm
        found[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert found["none"].keys() == found["torch"].keys()
    for key, weight in found["none"].items():
        # AdamW's first steps follow the sign of a gradient, which shows rounding where it is nearly 0.
        assert (found["torch"][key] - weight).norm() < 1e-4 * weight.norm(), key


@pytest.mark.parametrize("pad_to", ["longest", "seq-length"])
def test_padding_changes_the_work_and_not_the_loss(write_dataset: WriteDataset, tmp_path: Path, pad_to: str) -> None:
    data = write_dataset([[5], [9], [3], [8]], mask=None)
    plain = execute(plan(data, tmp_path / "a", dtype="float64", micro_batch_size=2))
    padded = execute(plan(data, tmp_path / "b", dtype="float64", micro_batch_size=2, pad_to=pad_to, seq_length=9))
    assert plain.num_padding == 0 < padded.num_padding
    assert padded.last_loss == pytest.approx(plain.last_loss, rel=1e-7)


def test_masks_differ(write_dataset: WriteDataset, tmp_path: Path) -> None:
    losses = []
    for mask in MaskMode:
        prepared = plan(write_dataset([[5, 4]], mask=mask), tmp_path / mask.value, train_iters=1)
        assert prepared.summary().mask == mask.value
        losses.append(execute(prepared).last_loss)
    assert losses[0] != losses[1]


def test_rows_left_out_are_told(write_dataset: WriteDataset, tmp_path: Path) -> None:
    prepared = plan(write_dataset([[3, 1], [1, 1]]), tmp_path / "run")
    assert "rows without a trained token, left out: 1" in prepared.summary().notes


def test_overwrite_replaces_the_run(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS)
    execute(plan(data, tmp_path / "run", train_iters=2))
    with pytest.raises(ConfigError) as raised:
        plan(data, tmp_path / "run")
    assert raised.value.code == "SP004"
    execute(plan(data, tmp_path / "run", train_iters=1, overwrite=True))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_that_fails_leaves_no_model(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS)
    execute(plan(data, tmp_path / "run", train_iters=1))
    broken = plan(data, tmp_path / "run", overwrite=True, lr=1e38, clip_grad=0.0, lr_warmup_iters=0)
    with pytest.raises(ConfigError) as raised:
        execute(broken)
    assert raised.value.code == "SP204"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"neat_pack": False}, "SP203"),
        ({"pad_to": "longest"}, "SP208"),
        ({"seq_length": 4}, "SP208"),
        ({"model": "no/such/directory"}, "SP206"),
        ({"model": "tiny:bert"}, "SP202"),
        ({"dtype": "float16"}, "SP208"),
        ({"global_batch_size": 4, "global_batch_tokens": 40}, "SP208"),
        ({"compile": True, "model": "tiny:mixtral"}, "SP208"),
        ({"kernels": "liger"}, "SP213"),
    ],
)
def test_what_does_not_fit_is_refused(
    write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any], code: str
) -> None:
    data = write_dataset(PACKS, seq_length=10)
    with pytest.raises(SeqpackError) as raised:
        plan(data, tmp_path / "run", **given)
    assert raised.value.code == code
    assert raised.value.help
    assert not (tmp_path / "run").exists()


def test_packing_does_not_change_the_tokens_of_a_step(write_dataset: WriteDataset, tmp_path: Path) -> None:
    packs = [[6, 2], [3, 5], [4, 4], [8], [2, 6], [4, 2, 2]]
    packed = write_dataset(packs, seq_length=8)
    samples = write_dataset([[length] for pack in packs for length in pack], mask=None)
    given = {"global_batch_size": None, "global_batch_tokens": 16}
    found = [plan(data, tmp_path / "run", **given).summary() for data in (packed, samples)]
    assert [summary.global_batch_size for summary in found] == [2, 4]  # rows of 8 tokens, and of 48 / 12
    assert [summary.num_steps for summary in found] == [3, 3]
    at_once = plan(samples, tmp_path / "run", micro_batch_size=3, **given).summary()
    assert at_once.global_batch_size == 3  # whole micro-batches
    more = plan(packed, tmp_path / "run", **{**given, "global_batch_tokens": 3}).summary()
    assert more.global_batch_size == 1


def write_config(directory: Path, family: str, **settings: Any) -> str:
    from transformers import AutoConfig

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {} if family == "mamba" else {"num_attention_heads": 4}
    tokens = {"vocab_size": 61, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    AutoConfig.for_model(family, **shape, **tokens, **settings).save_pretrained(directory)
    return str(directory)


def test_a_family_that_passes_the_check_is_trained_and_it_is_said(write_dataset: WriteDataset, tmp_path: Path) -> None:
    model = write_config(tmp_path / "olmo2", "olmo2")
    prepared = plan(write_dataset(PACKS), tmp_path / "run", model=model, random_init=True, train_iters=1)
    assert any("family olmo2 is not among those tested" in note for note in prepared.summary().notes)
    assert execute(prepared).num_steps == 1


def test_a_family_that_fails_the_check_is_refused(write_dataset: WriteDataset, tmp_path: Path) -> None:
    model = write_config(tmp_path / "mamba", "mamba")
    with pytest.raises(ConfigError, match="'mamba' cannot be trained on packs: its logits in a pack") as raised:
        plan(write_dataset(PACKS), tmp_path / "run", model=model, random_init=True)
    assert raised.value.code == "SP202"


def test_the_router_loss_of_experts_is_said(write_dataset: WriteDataset, tmp_path: Path) -> None:
    prepared = plan(write_dataset(PACKS), tmp_path / "run", model="tiny:mixtral", train_iters=1)
    assert any(note.startswith("router loss: 0.001") for note in prepared.summary().notes)
    assert execute(prepared).num_steps == 1


def test_loss_reductions_differ(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset([[9, 2, 2], [7]])
    losses = {
        execute(plan(data, tmp_path / reduction, loss_reduction=reduction, train_iters=1)).last_loss
        for reduction in ("token", "sample", "pack")
    }
    assert len(losses) == 3


def test_another_tokenizer_is_refused(write_dataset: WriteDataset, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", 50)
    with pytest.raises(ConfigError) as raised:
        plan(write_dataset(PACKS), tmp_path / "run", tokenizer=other)
    assert raised.value.code == "SP302"


def test_a_set_without_targets(write_dataset: WriteDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        plan(write_dataset([[1, 1]]), tmp_path / "run")
    assert raised.value.code == "SP205"


def test_dtype_of_the_saved_model(write_dataset: WriteDataset, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    result = execute(plan(write_dataset(PACKS), tmp_path / "run", train_iters=1, dtype="bfloat16"))
    assert AutoModelForCausalLM.from_pretrained(result.model_path).dtype is torch.bfloat16


def test_evaluation_on_rows_that_are_held_out(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset([*PACKS, [5, 4]], seq_length=10)
    given = {"split": "50,50", "global_batch_size": 1, "epochs": 1, "dtype": "float64"}
    prepared = plan(data, tmp_path / "run", eval_interval=2, **given)
    assert any("evaluated on 3 held-out rows every 2 steps" in note for note in prepared.summary().notes)
    execute(prepared)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 3]
    execute(plan(data, tmp_path / "plain", **given))
    plain = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [line["loss"] for line in plain]
    # The loss of the trained model on those rows, from a run that takes a step of no size over them.
    rate = {"lr": 1e-300, "weight_decay": 0.0, "lr_warmup_iters": 0, "lr_decay_style": "constant"}
    heldout = write_dataset([*PACKS, [5, 4]], seq_length=10)
    trained = str(tmp_path / "run" / "model")
    again = plan(
        heldout, tmp_path / "check", model=trained, **{**given, "split": "1,0", "global_batch_size": 6, **rate}
    )
    rows = prepared.dataset.pools(1)[0]
    check = replace(
        again,
        schedule=RowSchedule(
            again.dataset.num_targets, global_batch_size=3, micro_batch_size=1, seed=0, epochs=1, pools=[rows]
        ),
    )
    assert execute(check).last_loss == pytest.approx(lines[-1]["eval_loss"], rel=1e-9)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"eval_interval": 2}, "--split"),
        ({"eval_iters": 2, "split": "1,1"}, "--eval-interval"),
        ({"lr_wsd_decay_iters": 5}, "choose wsd"),
    ],
)
def test_flags_that_need_another(
    write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any], named: str
) -> None:
    data = write_dataset(PACKS)
    with pytest.raises(ConfigError) as raised:
        plan(data, tmp_path / "run", **given)
    assert raised.value.code == "SP208"
    assert named in raised.value.help


def test_no_evaluation_needs_no_rows(write_dataset: WriteDataset, tmp_path: Path) -> None:
    assert plan(write_dataset(PACKS), tmp_path / "run", eval_interval=2, eval_iters=0).evaluation is None


@pytest.mark.parametrize("granularity", ["selective", "full"])
def test_recomputation_does_not_change_the_run(write_dataset: WriteDataset, tmp_path: Path, granularity: str) -> None:
    data = write_dataset(PACKS, seq_length=10)
    plain = execute(plan(data, tmp_path / "a", lr_decay_style="wsd"))
    other = execute(plan(data, tmp_path / "b", lr_decay_style="wsd", recompute_granularity=granularity))
    assert other.last_loss == plain.last_loss


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 16), ("bfloat16", 18), ("float64", 32)])
def test_memory_of_weights_gradients_and_optimizer(
    write_dataset: WriteDataset, tmp_path: Path, dtype: str, bytes_each: int
) -> None:
    summary = plan(write_dataset(PACKS), tmp_path / "run", dtype=dtype).summary()
    assert summary.state_bytes == bytes_each * summary.num_parameters


@pytest.mark.parametrize(
    "given", [{"eval_interval": 3}, {"eval_iters": 1}, {"save_interval": 2}, {"async_save": False}, {"lr": 0.5}]
)
def test_ranks_compare_what_makes_them_meet(
    write_dataset: WriteDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    class ComparedError(Exception):
        pass

    def compare(ranks: object, facts: dict[str, object]) -> None:
        seen.append(facts)
        raise ComparedError

    seen: list[dict[str, object]] = []
    monkeypatch.setattr("seqpack.train.run.check_agreement", compare)
    data = write_dataset(PACKS, seq_length=10)
    same = {"split": "60,40", "eval_interval": 2}
    for options_of_rank in (same, same, {**same, **given}):
        with pytest.raises(ComparedError):
            execute(plan(data, tmp_path / "run", **options_of_rank))
    assert seen[0] == seen[1] != seen[2]
