"""Flags of Megatron-LM and MindSpeed-LLM on ``seqpack train``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def dry(cli: Cli, packed: Path, tmp_path: Path) -> Cli:
    def call(*flags: object) -> Any:
        return cli(
            "train", "--data-path", packed, "--load", "tiny:qwen2", "--save", tmp_path / "r", "--dry-run", *flags
        )

    return call


def test_a_command_line_of_mindspeed(dry: Cli, tokenizer_dir: Path) -> None:
    done = dry(
        *("--is-instruction-dataset", "--pack", "--neat-pack", "--reset-attention-mask", "--prompt-type", "qwen"),
        *("--tokenizer-type", "PretrainedFromHF", "--tokenizer-name-or-path", tokenizer_dir, "--bf16"),
        *("--num-layers", 2, "--hidden-size", 128, "--swiglu", "--add-qkv-bias", "--group-query-attention"),
        *("--use-flash-attn", "--use-fused-rmsnorm", "--finetune", "--no-load-optim", "--spec", "a.b", "c"),
    )
    assert done.code == 0, done.err
    assert "--use-flash-attn --use-fused-rmsnorm" in done.out
    assert "bfloat16" in done.out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--num-layers", 3), "SP230", "--num-layers 3 (num_hidden_layers is 2)"),
        (("--qk-layernorm",), "SP230", "--qk-layernorm (model_type is qwen2)"),
        (("--prompt-type", "llama3"), "SP203", "--prompt-type llama3 was given, but the data were made with qwen"),
        (("--attention-dropout", "0.1"), "SP029", "--attention-dropout 0.1 is not supported"),
        (("--stage", "pretrain", "--is-instruction-dataset"), "SP208", "contradict each other"),
    ],
)
def test_what_contradicts_stops(dry: Cli, flags: tuple[object, ...], code: str, message: str) -> None:
    done = dry(*flags)
    assert done.code == 2
    assert f"error[{code}]" in done.err
    assert message in " ".join(done.err.split())
