"""Training on packs against training on the same samples padded, in tokens per second that are not padding.

    python tests/benchmarks/bench_training.py [STEPS]

The rows are those of the demo. Every run has the same model (tiny:qwen2), similar tokens per step, and one thread.
The runs alternate, and each figure is the best of three, because machines are noisy; quote the ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo"
SEQ_LENGTH = 512
WARM_UP_STEPS = 3
ROUNDS = 3

RUNS = {
    "packed": ("packed", "--global-batch-size", "2", "--micro-batch-size", "2"),
    "unpacked, side by side": ("plain", "--global-batch-size", "16", "--micro-batch-size", "16"),
    "padded to the longest of 4": (
        "plain",
        "--pad-to",
        "longest",
        "--global-batch-size",
        "16",
        "--micro-batch-size",
        "4",
    ),
    "padded to 512": ("plain", "--pad-to", "seq-length", "--seq-length", "512", "--global-batch-size", "16"),
}


def run(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def prepare(folder: Path) -> None:
    data, tokenizer = folder / "data", folder / "tokenizer"
    run(DEMO / "make_data.py", "--output", data, "--rows", 3000, "--seed", 1)
    run(DEMO / "make_tokenizer.py", data / "train.jsonl", "--output", tokenizer)
    rows = (data / "train.jsonl", "--tokenizer", tokenizer, "--seq-length", SEQ_LENGTH)
    run("-m", "seqpack", "preprocess", *rows, "--neat-pack", "-o", folder / "packed")
    run("-m", "seqpack", "preprocess", *rows, "-o", folder / "plain")


def tokens_per_second(folder: Path, name: str, steps: int) -> tuple[float, float]:
    """Real tokens per second, and the share of padding."""
    data, *flags = RUNS[name]
    common = ("--model", "tiny:qwen2", "--num-threads", 1, "--train-iters", steps, "--overwrite", "-o", folder / "run")
    run("-m", "seqpack", "train", folder / data, *common, *flags)
    lines = (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()[WARM_UP_STEPS:]
    tokens, padding, seconds = (
        sum(json.loads(line)[key] for line in lines) for key in ("num_tokens", "num_padding", "seconds")
    )
    return tokens / seconds, padding / (tokens + padding)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(ROUNDS):
            for name in RUNS:
                best[name] = max(best.get(name, (0.0, 0.0)), tokens_per_second(folder, name, steps))
    for name, (speed, padding) in best.items():
        ratio = best["packed"][0] / speed
        print(f"{name:28s} {speed:8,.0f} tokens/s  padding {padding:6.1%}  packed is {ratio:.2f}x")


if __name__ == "__main__":
    main()
