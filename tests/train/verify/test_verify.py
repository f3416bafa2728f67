"""``seqpack verify`` on what is right, and on faults that somebody has shipped: each is planted and must be found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import seqpack.attention.cpu
import seqpack.models.packed
import seqpack.runtime.batch
from seqpack.core.errors import ConfigError
from seqpack.core.progress import no_progress
from seqpack.core.segments import Segments, shift_labels
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.cp.context import ContextParallel
from seqpack.options.context import ContextOptions
from seqpack.options.train import LoraOptions, ParallelOptions
from seqpack.options.verify import VerifyOptions
from seqpack.runtime.ranks import Ranks
from seqpack.train.prepare import prepare
from seqpack.train.verify.probe import HeadObserver
from seqpack.train.verify.result import VerifyReport
from seqpack.train.verify.run import chosen_rows, verify_model
from tests.distributed import run_ranks

from ..conftest import WriteDataset
from ..test_run import options, plan

PACKS = [[5, 3, 4], [9, 2], [4, 4], [7], [2, 2, 2, 3]]
CHECKS = (
    "same data",
    "boundaries",
    "positions",
    "labels",
    "padding",
    "isolation",
    "logits",
    "loss",
    "gradients",
)
Fault = Callable[[pytest.MonkeyPatch], None]


def name_of(value: object) -> str:
    return str(getattr(value, "__name__", "")) or (value if isinstance(value, str) else "-")


def report_on(
    data: Path,
    fault: Fault | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
    parallel: ParallelOptions = ParallelOptions(),  # noqa: B008
    **given: Any,
) -> VerifyReport:
    context = ContextOptions(context_parallel_algo=given.pop("algo", "auto"))
    asked = VerifyOptions(rows=given.pop("rows", 2), full_size=given.pop("full_size", False))
    given = {"dtype": "float64", **given}
    prepared = prepare(*options(data, data.parent / "none", **given), parallel, LoraOptions(), ranks, context)
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(patch)
        return verify_model(prepared, asked, no_progress)


def failed(report: VerifyReport) -> set[str]:
    return {check.name for check in report.checks if check.outcome == "failed"}


def seen(report: VerifyReport, name: str) -> str:
    return next(check.seen for check in report.checks if check.name == name)


@pytest.fixture
def packs(write_dataset: WriteDataset) -> Path:
    return write_dataset(PACKS, seq_length=13)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "tiny:qwen2", "micro_batch_size": 2},
        {"model": "tiny:llama", "dtype": "float32", "loss_reduction": "sample"},
        {"model": "tiny:mixtral", "loss_reduction": "pack", "attention": "reference"},
        {"model": "tiny:qwen3", "dtype": "bfloat16"},
    ],
)
def test_what_is_right_passes(packs: Path, given: dict[str, Any]) -> None:
    report = report_on(packs, rows=3, **given)
    assert report.passed, [check for check in report.checks if check.outcome == "failed"]
    assert tuple(check.name for check in report.checks) == CHECKS
    assert {check.name for check in report.checks if check.outcome == "skipped"} == {"same data"}
    assert "0 of" in seen(report, "isolation")


def test_samples_that_see_each_other_by_choice(write_dataset: WriteDataset) -> None:
    data = write_dataset(PACKS, seq_length=13, mask=MaskMode.CAUSAL)
    report = report_on(data, micro_batch_size=2)
    assert report.passed
    assert any("see each other" in note for note in report.notes)
    # Padding and the other pack of the micro-batch are still kept apart.
    assert "2 samples were changed" in seen(report, "isolation")


def test_rows_of_one_sample(write_dataset: WriteDataset) -> None:
    report = report_on(write_dataset([[5], [9]], mask=None))
    assert report.passed
    assert {check.name for check in report.checks if check.outcome == "skipped"} == {
        "same data",
        "padding",
        "isolation",
    }


def test_the_model_itself(packs: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("qwen2", **shape, num_hidden_layers=3, vocab_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    report = report_on(packs, full_size=True, model=str(tmp_path / "model"))
    assert report.passed
    assert report.on["model"] == str(tmp_path / "model")
    assert "of 39 parameters" in seen(report, "gradients")  # 12 in each of 3 layers, a norm, embedding, output layer


def test_a_preset_has_no_weights_to_take(packs: Path) -> None:
    with pytest.raises(ConfigError, match="--full-size: tiny:qwen2 has no weights") as raised:
        report_on(packs, full_size=True)
    assert raised.value.code == "SP212"


def causal_over_the_pack(patch: pytest.MonkeyPatch) -> None:
    attend = seqpack.attention.cpu.cpu_flash_attention

    def whole(*tensors: torch.Tensor, cu_q: np.ndarray, cu_k: np.ndarray, **settings: Any) -> Any:
        return attend(*tensors, cu_q=cu_q[[0, -1]], cu_k=cu_k[[0, -1]], **settings)

    patch.setattr(seqpack.attention.cpu, "cpu_flash_attention", whole)


def boundary_one_early(patch: pytest.MonkeyPatch) -> None:
    """Only the last token of a sample is in the wrong place: its first one would never tell."""
    attend = seqpack.attention.cpu.cpu_flash_attention

    def early(*tensors: torch.Tensor, cu_q: np.ndarray, cu_k: np.ndarray, **settings: Any) -> Any:
        moved = cu_q.copy()
        if len(moved) > 2:
            moved[1] -= 1
        return attend(*tensors, cu_q=moved, cu_k=moved, **settings)

    patch.setattr(seqpack.attention.cpu, "cpu_flash_attention", early)


def boundaries_dropped(patch: pytest.MonkeyPatch) -> None:
    """The batch has them, attention does not: as in a pipeline stage that is not told."""
    attend = seqpack.models.packed._attend

    def forgetful(*tensors: Any, segments: Segments, **settings: Any) -> Any:
        return attend(*tensors, segments=Segments(segments.cu_seqlens[[0, -1]]), **settings)

    patch.setattr(seqpack.models.packed, "_attend", forgetful)


def positions_not_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seqpack.runtime.batch, "position_ids", lambda cu_seqlens: np.arange(cu_seqlens[-1], dtype=np.int32))


def labels_shifted_after_slicing(patch: pytest.MonkeyPatch) -> None:
    def in_halves(labels: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        shifted = shift_labels(labels, cu_seqlens)
        shifted[len(labels) // 2 - 1] = IGNORE_INDEX  # the label behind the cut is on the other rank
        return shifted

    patch.setattr(seqpack.runtime.batch, "shift_labels", in_halves)


def labels_not_shifted_inside_samples(patch: pytest.MonkeyPatch) -> None:
    def across(labels: np.ndarray, cu_seqlens: np.ndarray) -> np.ndarray:
        return np.append(labels[1:], np.int32(IGNORE_INDEX))

    patch.setattr(seqpack.runtime.batch, "shift_labels", across)


def padding_is_documents(patch: pytest.MonkeyPatch) -> None:
    lengths_of = seqpack.runtime.batch._attended_lengths

    def with_padding(row: Any, mask: MaskMode) -> np.ndarray:
        lengths = lengths_of(row, mask)
        if not row.num_padding:
            return lengths
        return np.concatenate([lengths[:-1], np.ones(row.num_padding, np.int32)])

    patch.setattr(seqpack.runtime.batch, "_attended_lengths", with_padding)


def padding_is_trained_samples(patch: pytest.MonkeyPatch) -> None:
    weigh = seqpack.runtime.batch._loss_weights

    def with_padding(rows: Any, trained: np.ndarray, reduction: Any) -> Any:
        weights, units = weigh(rows, trained, reduction)
        return weights, units + sum(row.num_padding > 0 for row in rows)

    patch.setattr(seqpack.runtime.batch, "_loss_weights", with_padding)


def a_label_lost_in_the_loss(patch: pytest.MonkeyPatch) -> None:
    """The batch is right; the loss leaves its first label out."""
    around = HeadObserver.around

    def forgetful(self: HeadObserver, loss: Any) -> Any:
        def without_first(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, weights: Any = None) -> Any:
            labels = labels.clone()
            labels[(labels != IGNORE_INDEX).nonzero()[0]] = IGNORE_INDEX
            return loss(hidden, weight, labels, weights)

        return around(self, without_first)

    patch.setattr(HeadObserver, "around", forgetful)


def keys_without_gradients(patch: pytest.MonkeyPatch) -> None:
    attend = seqpack.attention.cpu.cpu_flash_attention
    patch.setattr(seqpack.attention.cpu, "cpu_flash_attention", lambda q, k, v, **s: attend(q, k.detach(), v, **s))


def attention_is_not_called(patch: pytest.MonkeyPatch) -> None:
    """A layer that does not look at other tokens: nothing leaks, and nothing is learned."""
    patch.setattr(seqpack.models.packed, "_attend", lambda module, q, k, v, mask, **s: (q.transpose(1, 2), None))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (causal_over_the_pack, {"isolation", "logits", "loss", "gradients"}),
        (boundary_one_early, {"isolation", "logits", "loss", "gradients"}),
        (boundaries_dropped, {"boundaries", "isolation", "logits", "loss", "gradients"}),
        (positions_not_reset, {"positions"}),  # rotations are relative: nothing else shows it
        (labels_shifted_after_slicing, {"labels", "loss", "gradients"}),
        (labels_not_shifted_inside_samples, {"labels", "loss", "gradients"}),
        (padding_is_documents, {"boundaries", "positions", "padding"}),
        (padding_is_trained_samples, {"padding", "loss", "gradients"}),
        (a_label_lost_in_the_loss, {"loss", "gradients"}),
        (keys_without_gradients, {"gradients"}),
        (attention_is_not_called, {"boundaries", "logits", "loss", "gradients"}),
    ],
    ids=name_of,
)
def test_a_planted_fault_is_found(write_dataset: WriteDataset, fault: Fault, found: set[str]) -> None:
    data = write_dataset(PACKS, seq_length=13, untrained=0)
    report = report_on(data, fault, loss_reduction="sample" if fault is padding_is_trained_samples else "token")
    assert failed(report) >= found, report.checks
    assert not report.passed
    assert not failed(report) & ({"same data"} | (set(CHECKS) - found if fault is positions_not_reset else set()))


def test_a_leak_is_named_by_the_rows_of_the_data(packs: Path) -> None:
    text = seen(report_on(packs, causal_over_the_pack), "isolation")
    assert "a token of sample 0 of row 4 (made.jsonl:9) changes the logits of sample 1 of row 4 (made.jsonl:10)" in text


def on_rank(ranks: Ranks, data: Path, fault: Fault | None, faulty_rank: int) -> VerifyReport:
    return report_on(data, fault if ranks.rank == faulty_rank else None, ranks, rows=4)


def other_rows(patch: pytest.MonkeyPatch) -> None:
    """Files of another disk: one label is another one."""
    from seqpack.train.data import TrainData

    read = TrainData.__getitem__

    def changed(self: TrainData, row: int) -> Any:
        found = copy.deepcopy(read(self, row))
        found.input_ids.flags.writeable = True
        found.input_ids[0] ^= 1
        return found

    patch.setattr(TrainData, "__getitem__", changed)


@pytest.mark.parametrize(
    ("fault", "rank", "found"),
    [
        (None, 0, set()),
        (boundaries_dropped, 1, {"boundaries", "isolation"}),
        (positions_not_reset, 0, {"positions"}),
        (other_rows, 1, {"same data"}),
    ],
    ids=name_of,
)
def test_a_fault_on_one_of_two_ranks(packs: Path, fault: Fault | None, rank: int, found: set[str]) -> None:
    reports = run_ranks(2, on_rank, packs, fault, rank)
    assert reports[0] == reports[1]
    assert failed(reports[0]) >= found
    assert bool(found) or reports[0].passed, reports[0].checks
    for name in found:
        assert seen(reports[0], name).startswith(f"rank {rank}: ")
    assert "dp 2" in reports[0].on["runs on"]


def sharing_rows(ranks: Ranks, data: Path, fault: Fault | None, algo: str) -> VerifyReport:
    return report_on(data, fault, ranks, ParallelOptions(context_parallel_size=2), algo=algo, rows=2)


def in_shards(change: Callable[[Any], dict[str, Any]]) -> Fault:
    """A fault in the batch each rank holds, behind that which all of them read."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        shard = ContextParallel.shard
        patch.setattr(ContextParallel, "shard", lambda self, batch: replace(mine := shard(self, batch), **change(mine)))

    return plant


def labels_shifted_in_shards(patch: pytest.MonkeyPatch) -> None:
    in_shards(lambda mine: {"labels": torch.roll(mine.labels, -1)})(patch)


def positions_of_shards(patch: pytest.MonkeyPatch) -> None:
    in_shards(lambda mine: {"position_ids": torch.arange(mine.position_ids.shape[1])[None] * 2})(patch)


@pytest.mark.parametrize(
    ("fault", "algo", "found"),
    [
        (None, "auto", set()),
        (None, "ring", set()),
        (None, "ulysses", set()),
        (labels_shifted_in_shards, "ring", {"loss", "gradients"}),
        (positions_of_shards, "ring", {"logits", "loss", "gradients"}),
        (causal_over_the_pack, "ulysses", {"isolation", "logits", "loss"}),
    ],
    ids=name_of,
)
def test_two_ranks_that_share_rows(packs: Path, fault: Fault | None, algo: str, found: set[str]) -> None:
    reports = run_ranks(2, sharing_rows, packs, fault, algo)
    assert reports[0] == reports[1]
    assert failed(reports[0]) >= found
    assert bool(found) or reports[0].passed, reports[0].checks
    assert "cp 2" in reports[0].on["runs on"]


def sharing_the_model(ranks: Ranks, data: Path, fault: Fault | None, options: dict[str, int]) -> VerifyReport:
    return report_on(data, fault if ranks.rank == 1 else None, ranks, ParallelOptions(**options), rows=2)


@pytest.mark.parametrize(
    ("options", "fault", "found"),
    [
        ({"tensor_model_parallel_size": 2}, None, set()),
        ({"pipeline_model_parallel_size": 2}, None, set()),
        ({"pipeline_model_parallel_size": 2}, boundaries_dropped, {"boundaries", "isolation", "logits", "gradients"}),
    ],
    ids=name_of,
)
def test_two_ranks_that_share_the_model(
    packs: Path, options: dict[str, int], fault: Fault | None, found: set[str]
) -> None:
    reports = run_ranks(2, sharing_the_model, packs, fault, options)
    assert reports[0] == reports[1]
    assert failed(reports[0]) >= found
    assert bool(found) or reports[0].passed, reports[0].checks
    assert "0 of 0" not in seen(reports[0], "isolation")


def test_rows_that_have_most_to_show_come_first(write_dataset: WriteDataset, tmp_path: Path) -> None:
    dataset = plan(write_dataset([[9], [2, 2, 2], [1], [8], [3, 3], [10]], seq_length=10), tmp_path / "x").dataset
    rows = chosen_rows(dataset, 3).tolist()
    assert rows[:2] == [1, 4]  # row 2 has more padding, and no token to train on
    assert len(chosen_rows(dataset, 100)) == 5
