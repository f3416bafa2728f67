"""What is reckoned for a layout is what its ranks then hold: counted on up to 1,024 ranks in this one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.models.stages import PipelineCut, cut_pipeline
from seqpack.runtime.parallel import ParallelPlan
from seqpack.train.assemble import assemble
from seqpack.train.bubble import course
from seqpack.train.estimate import Workload, estimate_layout, local_weights, outline_of
from seqpack.train.flops import costs_of_layers

LLAMA2_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip
QWEN25_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
QWEN25_32B = {
    "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
MOE = {
    "hidden_size": 128, "intermediate_size": 352, "moe_intermediate_size": 64, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 16, "num_experts_per_tok": 2,
    "vocab_size": 1001,
}  # fmt: skip
SMALL = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1001, "tie_word_embeddings": True,
}  # fmt: skip


@contextmanager
def pretended(rank: int, size: int) -> Iterator[None]:
    """A process group of ``size`` ranks of which only this one exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("family", "settings", "size", "degrees"),
    [
        ("qwen2", SMALL, 4, {"tp": 4}),
        ("qwen2", SMALL, 1024, {"tp": 8, "pp": 4, "cp": 4, "dp_replicate": 2}),
        ("llama", {**SMALL, "tie_word_embeddings": False}, 64, {"tp": 2, "pp": 8}),
        ("qwen3_moe", MOE, 64, {"tp": 2, "ep": 8, "pp": 2}),
    ],
)
def test_weights_are_counted_as_ranks_hold_them(
    family: str, settings: dict[str, Any], size: int, degrees: dict[str, int]
) -> None:
    config = AutoConfig.for_model(family, **settings)
    plan = ParallelPlan.of(size, **degrees)
    cut = None if plan.pp == 1 else cut_pipeline(config, plan.pp, costs_of_layers(config))
    per_stage = size // plan.pp
    for stage in range(plan.pp):
        with pretended(stage * per_stage, size), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            mesh = plan.mesh("cpu")
            placed = assemble(model, cpu_flash_attention, plan, cut, 8, mesh, torch.bfloat16)
            found = sum(_held(parameter) for _, parameter in placed.named_parameters())
        weights = local_weights(outline_of(config), plan, cut, stage)
        shards = plan.dp_shard * plan.cp
        reckoned = weights.dense / shards + weights.experts / (shards // plan.ep)
        assert found == pytest.approx(reckoned, rel=0.05)  # rows that do not divide are not shared out evenly
        if shards == 1:
            assert found == reckoned


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
        ("opt", {"hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": 2, "num_attention_heads": 4}),
    ],
)
def test_families_that_name_their_widths_otherwise(family: str, settings: dict[str, Any]) -> None:
    config = AutoConfig.for_model(family, vocab_size=320, **settings)
    found = estimate_layout(config, ParallelPlan.of(2), None, Workload(1, 1024, 4))
    alone = estimate_layout(config, ParallelPlan.of(2), None, Workload(1, 512, 4))
    assert found.weights > 0 and found.activation_bytes > alone.activation_bytes


def _held(parameter: torch.Tensor) -> int:
    return parameter._local_tensor.numel() if isinstance(parameter, DTensor) else parameter.numel()


def test_one_forward_one_backward_waits_as_long_as_the_textbook_says() -> None:
    for size, batches in ((2, 2), (4, 8), (8, 32)):
        cut = PipelineCut(size, tuple(range(n, n + 1) for n in range(size)))
        assert course(cut, batches).bubble == pytest.approx((size - 1) / (batches + size - 1))
        assert course(cut, batches).kept == tuple(range(size, 0, -1))


def test_more_stages_and_zero_bubble_wait_less() -> None:
    def bubble(per_rank: int, zero: bool) -> float:
        return course(PipelineCut(4, tuple(range(n, n + 1) for n in range(4 * per_rank)), zero), 8).bubble

    assert bubble(2, True) < bubble(2, False) < bubble(1, False)
    assert bubble(3, True) < bubble(3, False) < bubble(2, False)


def plans_of_the_page() -> list[tuple[str, Any, ParallelPlan, PipelineCut | None, Workload]]:
    found = []
    for title, family, settings, size, degrees, work in (
        ("Llama2-7B, 32k, TP2 CP4", "llama", LLAMA2_7B, 8, {"tp": 2, "cp": 4}, Workload(8, 32768, 2, "full")),
        ("Qwen2.5-7B, 4k, 8 processes", "qwen2", QWEN25_7B, 8, {}, Workload(4, 4096, 2, "selective")),
        ("Qwen2.5-7B, 4k, TP2 PP2", "qwen2", QWEN25_7B, 8, {"tp": 2, "pp": 2}, Workload(16, 4096, 2, "full")),
        ("Qwen2.5-32B, 4k, TP8", "qwen2", QWEN25_32B, 16, {"tp": 8}, Workload(8, 4096, 2, "selective")),
        ("Qwen2.5-32B, 4k, TP4 PP4", "qwen2", QWEN25_32B, 16, {"tp": 4, "pp": 4}, Workload(16, 4096, 2, "full")),
        ("Qwen2.5-32B, 4k, 1,024: TP8 PP4", "qwen2", QWEN25_32B, 1024, {"tp": 8, "pp": 4}, Workload(16, 4096, 2)),
    ):
        config = AutoConfig.for_model(family, **settings)
        plan = ParallelPlan.of(size, **degrees)
        cut = None if plan.pp == 1 else cut_pipeline(config, plan.pp, costs_of_layers(config))
        found.append((title, config, plan, cut, work))
    return found


def test_the_table_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "seqpack" / "train" / "README.md").read_text(encoding="utf-8")
    for title, config, plan, cut, work in plans_of_the_page():
        row = table_row(title, estimate_layout(config, plan, cut, work))
        assert row in page, f"the page should say\n{row}"


def table_row(title: str, estimate: Any) -> str:
    sizes = (estimate.state_bytes, estimate.gathered_bytes, estimate.activation_bytes, estimate.total_bytes)
    gib = " | ".join(f"{size / 2**30:.1f}" for size in sizes)
    sent = ", ".join(f"{traffic.axis} {traffic.bytes / 2**30:.1f}" for traffic in estimate.traffic)
    return f"| {title} | {gib} | {sent} | {estimate.bubble:.0%} |"
