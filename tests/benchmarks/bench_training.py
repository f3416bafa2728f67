"""Training on packs: seqpack beside TRL's ``SFTTrainer``, and both beside the same rows padded.

    python tests/benchmarks/bench_training.py [--trl PYTHON] [--data FILE.jsonl --tokenizer DIR] [--quick]

PYTHON is an interpreter of an environment of its own that has trl; without it, only our own runs are made. The rows are
those of the demo, or of FILE.jsonl in Alpaca columns. Every run has the same model (a random Qwen2 of 5 million
weights), the same rows as token numbers, about as many tokens in an optimizer step, one thread, float32 and no
recomputation, which TRL would switch on; the last section has it on for both.

Speeds count tokens that are not padding, per second of CPU time of the process, which does not depend on what else the
machine does. The runs alternate; ratios are taken rank for rank: the best of one against the best of the other, the
second against the second, and so on, and the smallest counts. The last lines compare them with our bars.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "examples" / "demo"
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "initializer_range": 0.06,
}
SEQ_LENGTH = 2048
STEP_TOKENS = 2 * SEQ_LENGTH
"""In an optimizer step, about."""
PADDED_ROWS = 8
"""Rows that are padded to the longest of them: what TRL does by default."""
WARM_UP_STEPS = 2
LENGTHS = (1024, 2048, 4096, 8192)
BARS = {"packed / padded, of what padding allows": 0.8, "TRL packed": 1.8, "TRL padded": 2.5}


@dataclass(frozen=True)
class Case:
    """A run: who trains, on packs or on padded rows."""

    program: str
    packed: bool
    seq_length: int = SEQ_LENGTH
    recompute: bool = False

    def __str__(self) -> str:
        kind = f"packed, {self.seq_length:,}" if self.packed else f"padded, {PADDED_ROWS} rows"
        return f"{self.program} {kind}{', recomputed' if self.recompute else ''}"


@dataclass(frozen=True)
class Measured:
    """Of the steps after the warm-up: tokens that are not padding per second of CPU, shares of padding and waiting."""

    speed: float
    padding: float
    waited: float


@dataclass
class Bench:
    folder: Path
    trl: str | None
    steps: int
    rounds: int
    found: dict[Case, list[Measured]] = field(default_factory=dict)

    def measure(self, cases: list[Case]) -> None:
        """Alternate the cases, so that a slow minute hits all of them."""
        for _ in range(self.rounds):
            for case in cases:
                if case.program == "seqpack" or self.trl:
                    self.found.setdefault(case, []).append(self._run(case))

    def _run(self, case: Case) -> Measured:
        command = self._trl(case) if case.program == "TRL" else self._seqpack(case)
        micro, accumulate = self._batch(case)
        shared = ("--micro-batch", micro, "--accumulate", accumulate, "--steps", self.steps, "--model",
                  self.folder / "model", "--output", self.folder / "run")  # fmt: skip
        flags = ["--recompute"] * case.recompute
        lines = run(*command, *shared, *flags).splitlines()
        steps = [json.loads(line) for line in lines if line.startswith('{"cpu"')]
        assert len(steps) == self.steps, lines[-5:]
        first, last = steps[WARM_UP_STEPS - 1], steps[-1]
        spent = {name: last[name] - first[name] for name in last}
        tokens, padding = spent["tokens"], spent["padding"]
        return Measured(
            tokens / spent["cpu"], padding / (tokens + padding), spent.get("waited", float("nan")) / spent["wall"]
        )

    def _batch(self, case: Case) -> tuple[int, int]:
        """Rows at once and how often, for about ``STEP_TOKENS``."""
        if case.packed:
            return 1, max(1, STEP_TOKENS // case.seq_length)
        return PADDED_ROWS, max(1, round(STEP_TOKENS / mean_length(self.folder) / PADDED_ROWS))

    def _seqpack(self, case: Case) -> list[Any]:
        data = self.folder / (f"packed-{case.seq_length}" if case.packed else "plain")
        return [sys.executable, HERE / "training" / "by_seqpack.py", "--data", data, *["--pad"] * (not case.packed)]

    def _trl(self, case: Case) -> list[Any]:
        rows = ("--rows", self.folder / "rows.jsonl", "--tokenizer", self.folder / "tokenizer")
        flags = ["--packing"] * case.packed
        return [self.trl, HERE / "training" / "by_trl.py", *rows, "--seq-length", case.seq_length, *flags]


def run(*words: object) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def has_trl(interpreter: str) -> bool:
    try:
        return not subprocess.run([interpreter, "-c", "import trl"], capture_output=True, check=False).returncode
    except OSError:
        return False


def prepare(folder: Path, data: Path | None, tokenizer: Path | None) -> None:
    """Packed sets of every length, the same rows unpacked, the rows for TRL, and the model."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from seqpack.io.packed import PackedDataset

    if data is None or tokenizer is None:
        data = folder / "data" / "train.jsonl"
        run(sys.executable, DEMO / "make_data.py", "--output", data.parent, "--rows", 4000, "--seed", 1)
        run(sys.executable, DEMO / "make_tokenizer.py", data, "--output", folder / "tokenizer")
    else:
        shutil.copytree(tokenizer, folder / "tokenizer")
    seqpack = (sys.executable, "-m", "seqpack", "preprocess", data, "--tokenizer", folder / "tokenizer")
    cut = ("--seq-length", LENGTHS[0], "--on-overlong", "truncate", "--max-drop", 1)
    run(*seqpack, *cut, "-o", folder / "plain")
    for length in LENGTHS:
        packing = ("--seq-length", length, "--neat-pack", "--strategy", "bfd")
        run(sys.executable, "-m", "seqpack", "pack", folder / "plain", *packing, "-o", folder / f"packed-{length}")
    plain = PackedDataset.open(folder / "plain")
    with (folder / "rows.jsonl").open("w") as file:
        for row in (plain[number] for number in range(len(plain))):
            file.write(json.dumps({"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()}) + "\n")
    config = AutoConfig.for_model("qwen2", **SHAPE, vocab_size=-(-plain.manifest.tokenizer.vocab_size // 64) * 64)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")


def mean_length(folder: Path) -> float:
    from seqpack.io.packed import PackedDataset

    return float(PackedDataset.open(folder / "plain").num_tokens.mean())


def ratio(ours: list[Measured], theirs: list[Measured]) -> float:
    """The smallest ratio of speeds, rank for rank."""
    ranked = zip(sorted(m.speed for m in ours), sorted(m.speed for m in theirs), strict=True)
    return min(a / b for a, b in ranked)


def show(bench: Bench, cases: list[Case]) -> None:
    ours = bench.found[cases[0]]
    for case in (case for case in cases if case in bench.found):
        measured = bench.found[case]
        best = max(measured, key=lambda m: m.speed)
        waited = "" if best.waited != best.waited else f"  data wait {best.waited:5.2%}"
        print(f"{case!s:38s} {best.speed:8,.0f} tokens/s  padding {best.padding:6.1%}  "
              f"packed is {ratio(ours, measured):.2f}x{waited}")  # fmt: skip


def bars(bench: Bench) -> bool:
    """Compare with ``BARS``; whether all are met."""
    packed, padded = Case("seqpack", True), Case("seqpack", False)
    ours = bench.found[packed]
    found = {"packed / padded, of what padding allows": ratio(ours, bench.found[padded])
             * (1 - max(m.padding for m in bench.found[padded]))}  # fmt: skip
    for name, case in (("TRL packed", Case("TRL", True)), ("TRL padded", Case("TRL", False))):
        if case in bench.found:
            found[name] = ratio(ours, bench.found[case])
    for name, value in found.items():
        print(f"{name:42s} {value:5.2f}  bar {BARS[name]}  {'met' if value >= BARS[name] else 'MISSED'}")
    return all(value >= BARS[name] for name, value in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="interpreter that has trl")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, and no growth with the length")
    options = parser.parse_args()
    trl = options.trl
    if trl and not has_trl(trl):
        raise SystemExit(f"--trl {trl} does not exist or has no trl: python -m venv V && V/bin/pip install trl")
    if not trl:
        print("no --trl PYTHON: TRL is left out")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, options.data, options.tokenizer)
        bench = Bench(folder, trl, options.steps, 1 if options.quick else options.rounds)
        sections = {
            "same rows, same model": [Case(who, packed) for packed in (True, False) for who in ("seqpack", "TRL")]
        }
        if not options.quick:
            for length in LENGTHS:
                sections[f"growth: packs of {length:,}"] = [Case(who, True, length) for who in ("seqpack", "TRL")]
            first = sections["same rows, same model"]
            sections["layers computed again in the backward pass"] = [replace(case, recompute=True) for case in first]
        for number, (title, cases) in enumerate(sections.items()):
            bench.rounds = bench.rounds if number == 0 else 1
            bench.measure([case for case in cases if case not in bench.found])
            print(f"\n{title}")
            show(bench, cases)
        print()
        sys.exit(0 if bars(bench) else 1)


if __name__ == "__main__":
    main()
