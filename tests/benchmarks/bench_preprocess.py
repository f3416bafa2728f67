"""What ``seqpack preprocess --neat-pack`` costs against a bare tokenizer loop over the same rows, and how it grows.

    python tests/benchmarks/bench_preprocess.py TOKENIZER_DIR DATA.jsonl [ROWS]

The bare loop reads the rows, encodes prompt and reply of each with two calls, and throws the ids away: what a
preprocessing script cannot do without. Both run in fresh processes; figures are CPU seconds with start-up, and per row
with start-up subtracted (a run on a few rows). The last lines repeat it with a tenth of the rows.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

BARE_LOOP = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
system = "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n"
for line in open(sys.argv[2], "rb"):
    row = json.loads(line)
    user = row["instruction"] + ("\\n" + row["input"] if row.get("input") else "")
    prompt = f"{system}<|im_start|>user\\n{user}<|im_end|>\\n<|im_start|>assistant\\n"
    for text in (prompt, row["output"]):
        tokenizer.encode(text, add_special_tokens=False).ids
"""
FEW_ROWS = 50


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one child process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_rows(data: Path, count: int, folder: Path) -> Path:
    path = folder / f"{count}.jsonl"
    with data.open("rb") as source:
        path.write_bytes(b"".join(itertools.islice(source, count)))
    return path


def measure(tokenizer: str, data: Path, rows: int, folder: Path) -> None:
    prefix = str(folder / "out")

    def ours(path: Path) -> list[str]:
        flags = ["--tokenizer", tokenizer, "--seq-length", "2048", "--neat-pack", "-o", prefix, "--overwrite", "-q"]
        return [sys.executable, "-m", "seqpack", "preprocess", str(path), *flags]

    def bare(path: Path) -> list[str]:
        return [sys.executable, "-c", BARE_LOOP, tokenizer, str(path)]

    few, many = first_rows(data, FEW_ROWS, folder), first_rows(data, rows, folder)
    marginal = {}
    for name, command in (("seqpack preprocess --neat-pack", ours), ("bare tokenizers loop", bare)):
        start, total = cpu_seconds(command(few)), cpu_seconds(command(many))
        marginal[name] = (total - start) / (rows - FEW_ROWS)
        per_row = f"{marginal[name] * 1e6:6.0f} us/row"
        print(f"{rows:>8,} rows  {name:32s} {total:6.2f} CPU s, of that start {start:.2f}; {per_row}")
    ratio = marginal["bare tokenizers loop"] / marginal["seqpack preprocess --neat-pack"]
    print(f"{rows:>8,} rows  rate per row against the bare loop: {ratio:.2f}x")


def main() -> None:
    tokenizer, data = sys.argv[1], Path(sys.argv[2])
    rows = int(sys.argv[3]) if len(sys.argv) > 3 else sum(1 for _ in data.open("rb"))
    with tempfile.TemporaryDirectory() as folder:
        for count in (rows // 10, rows):
            measure(tokenizer, data, count, Path(folder))


if __name__ == "__main__":
    main()
