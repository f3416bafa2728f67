"""Command lines of MindSpeed-LLM's training scripts: ``seqpack train ARGV --dry-run`` on models of these shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from seqpack.cli.app import run

from .conftest import WriteDataset

LINES = json.loads((Path(__file__).parents[1] / "golden" / "argv" / "mindspeed_train.json").read_bytes())
FAMILIES = {"llama2": "llama", "qwen25": "qwen2", "qwen3": "qwen3", "qwen3-moe": "qwen3_moe"}
REFUSED = {
    "qwen25/tune_qwen25_72b_4k_lora_ptd.sh": "--lora-r is not there yet together with --tp, --pp or --ep",
    "qwen3_moe/tune_qwen3_235b_a22b_4K_full_pack_A3_ptd.sh": "--num-layers-per-virtual-pipeline-stage 8: 94 layers",
}
NOTED = ("--use-flash-attn", "--sequence-parallel", "--handler-name", "--no-load-optim", "--initial-loss-scale")
DEGREES = ("tensor-model-parallel-size", "pipeline-model-parallel-size", "context-parallel-size")


class Line:
    """The words of one command line, by flag."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.values = {flag: value for flag, value in pairwise([*argv, "--"]) if flag.startswith("--")}

    def number(self, name: str, default: int = 1) -> int:
        return int(self.values.get(f"--{name}", default))

    def has(self, name: str) -> bool:
        return f"--{name}" in self.values

    @property
    def num_processes(self) -> int:
        """As few as its degrees allow; experts are spread over those that share neither matrices nor layers."""
        tp, pp, cp = map(self.number, DEGREES)
        return tp * pp * max(cp, self.number("expert-model-parallel-size"))

    def config(self) -> Any:
        """The model that its flags describe."""
        heads = self.number("num-attention-heads")
        idle = len(self.values["--noop-layers"].split(",")) if self.has("noop-layers") else 0
        values: dict[str, Any] = {
            "num_hidden_layers": self.number("num-layers") - idle,
            "hidden_size": self.number("hidden-size"),
            "intermediate_size": self.number("ffn-hidden-size"),
            "num_attention_heads": heads,
            "num_key_value_heads": self.number("num-query-groups", heads),
            "head_dim": self.number("kv-channels", self.number("hidden-size") // heads),
            "rms_norm_eps": float(self.values.get("--norm-epsilon", 1e-5)),
            "rope_parameters": {"rope_type": "default", "rope_theta": float(self.values.get("--rotary-base", 1e4))},
            "vocab_size": self.number("padded-vocab-size", 32000),
            "tie_word_embeddings": not self.has("untie-embeddings-and-output-weights"),
        }
        if self.has("num-experts"):
            values |= {
                "num_experts": self.number("num-experts"),
                "num_experts_per_tok": self.number("moe-router-topk"),
                "moe_intermediate_size": self.number("moe-ffn-hidden-size"),
                "router_aux_loss_coef": float(self.values["--moe-aux-loss-coeff"]),
            }
        return AutoConfig.for_model(FAMILIES[self.values["--model-type-hf"]], **values)


@pytest.fixture
def dry_run(
    write_dataset: WriteDataset, tokenizer_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    def call(argv: list[str]) -> tuple[int, str, str]:
        line = Line(argv)
        line.config().save_pretrained(tmp_path / "model")
        if line.has("stage"):
            length = line.number("seq-length")
            packed = {"seq_length": length} if line.has("neat-pack") else {"mask": None}
            data = write_dataset([[40, 9], [30]], **packed)  # type: ignore[arg-type]
        else:
            texts = tmp_path / "texts.txt"
            texts.write_text("one two three\n" * 40_000)
            data = tmp_path / "texts"
            words = ["preprocess", texts, "--handler", "text", "--append-eod", "--tokenizer", tokenizer_dir, "-o", data]
            assert run([*map(str, words)]) == 0
        places = {"MODEL": tmp_path / "model", "RUN": tmp_path / "run", "DATA": data, "TOKENIZER": tokenizer_dir}
        capfd.readouterr()
        words = [str(places.get(word, word)) for word in argv]
        code = run(["train", *words, "--nproc", str(line.num_processes), "--dry-run"])
        return code, *capfd.readouterr()

    return call


@pytest.mark.parametrize("line", LINES, ids=[line["source"] for line in LINES])
def test_a_line_would_run_or_says_why_not(line: dict[str, Any], dry_run: Any) -> None:
    code, out, err = dry_run(line["argv"])
    if (reason := REFUSED.get(line["source"])) is not None:
        assert code == 2
        assert reason in err
        return
    assert code == 0, err
    notes = [note for note in out.splitlines() if note.startswith("no effect, ")]
    for flag in (
        "--use-flash-attn",
        "--sequence-parallel",
        "--handler-name",
        "--no-load-optim",
        "--initial-loss-scale",
    ):
        assert (flag in line["argv"]) == any(flag in note.split() for note in notes), flag
