"""What ``seqpack preprocess --neat-pack`` costs beside a bare tokenizer loop over the same rows, and how it grows.

    python tests/benchmarks/bench_preprocess.py TOKENIZER_DIR DATA.jsonl [ROWS] [--trl PYTHON]

The bare loop reads the rows, encodes prompt and reply of each with two calls, and throws the ids away: what a
preprocessing script cannot do without. Everything runs in fresh processes, one after the other. CPU seconds are of the
process and its workers; "start" is a run on 200 rows, which the rate per row leaves out; memory is the largest process.
Each figure is the best of three runs, since other programs of the machine only ever add to it. An engine's first run
compares it with tokenizers and remembers the result; that run is not counted. ``--trl`` names a Python that has TRL
(pip install trl), whose own preparation of 10,000 rows is measured beside ours. The last line repeats the data ten
times.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
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
TRL = """
import itertools, json, sys
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
system = "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n"
rows = []
for line in open(sys.argv[2], "rb"):
    row = json.loads(line)
    user = row["instruction"] + ("\\n" + row["input"] if row.get("input") else "")
    prompt = f"{system}<|im_start|>user\\n{user}<|im_end|>\\n<|im_start|>assistant\\n"
    rows.append({"prompt": prompt, "completion": row["output"] + "<|im_end|>"})
shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **shape))
args = SFTConfig(output_dir=sys.argv[3], max_length=2048, packing=True, report_to=[], use_cpu=True, bf16=False)
SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
"""
FEW_ROWS = 200
TRL_ROWS = 10_000
RUNS = 3


@dataclass(frozen=True)
class Cost:
    """Of one process with its children: CPU seconds, seconds, MB of the largest process."""

    cpu: float
    wall: float
    memory: float


def cost(command: list[str]) -> Cost:
    """The cheapest of some runs."""
    return min((one_run(command) for _ in range(RUNS)), key=lambda run: run.cpu)


def one_run(command: list[str]) -> Cost:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - started, usage.ru_maxrss / 1024)


def first_rows(data: Path, count: int, folder: Path) -> Path:
    path = folder / f"{count}.jsonl"
    with data.open("rb") as source:
        path.write_bytes(b"".join(itertools.islice(source, count)))
    return path


def seqpack(tokenizer: str, folder: Path, engine: str, workers: int, data: Path) -> list[str]:
    flags = ["--tokenizer", tokenizer, "--tokenizer-engine", engine, "--workers", str(workers)]
    output = ["--seq-length", "2048", "--neat-pack", "-o", str(folder / "out"), "--overwrite", "-q"]
    return [sys.executable, "-m", "seqpack", "preprocess", str(data), *flags, *output]


def bare(tokenizer: str, data: Path) -> list[str]:
    return [sys.executable, "-c", BARE_LOOP, tokenizer, str(data)]


def compare(tokenizer: str, data: Path, rows: int, folder: Path) -> None:
    """Every engine with one and two workers, beside the bare loop."""
    few, many = first_rows(data, FEW_ROWS, folder), first_rows(data, rows, folder)
    start, total = cost(bare(tokenizer, few)), cost(bare(tokenizer, many))
    bare_rate = (total.cpu - start.cpu) / (rows - FEW_ROWS)
    print(line("bare tokenizers loop", rows, start, total))
    for engine in ("fastokens", "gigatoken", "tokenizers"):
        if not find_spec(engine):
            print(f"{engine}: not installed")
            continue
        one_run(seqpack(tokenizer, folder, engine, 1, few))
        alone = 0.0
        for workers in (1, 2):
            start, total = (cost(seqpack(tokenizer, folder, engine, workers, path)) for path in (few, many))
            ratio = bare_rate / ((total.cpu - start.cpu) / (rows - FEW_ROWS))
            alone = alone or total.cpu
            against = f"{ratio:5.1f}x the bare loop; {total.cpu / alone:.2f}x the CPU of one worker"
            print(line(f"seqpack, {engine}, workers {workers}", rows, start, total), against)


def beside_trl(python: str, tokenizer: str, data: Path, folder: Path) -> None:
    """TRL's preparation and ours, both as their users start them."""
    few, many = first_rows(data, FEW_ROWS, folder), first_rows(data, TRL_ROWS, folder)

    def trl(path: Path) -> list[str]:
        return [python, "-c", TRL, tokenizer, str(path), str(folder / "trl")]

    def ours(path: Path) -> list[str]:
        return seqpack(tokenizer, folder, "auto", 2, path)

    one_run(ours(few))
    theirs, mine = ((one_run(make(few)), one_run(make(many))) for make in (trl, ours))
    rates = [(total.cpu - start.cpu) / (TRL_ROWS - FEW_ROWS) for start, total in (theirs, mine)]
    print(line("TRL, packing", TRL_ROWS, *theirs))
    print(line("seqpack, as installed", TRL_ROWS, *mine))
    print(f"per CPU second {rates[0] / rates[1]:.1f}x TRL, in wall {theirs[1].wall / mine[1].wall:.1f}x")


def grow(tokenizer: str, data: Path, rows: int, folder: Path) -> None:
    """The same rows ten times."""
    engine = "fastokens" if find_spec("fastokens") else "tokenizers"
    once = first_rows(data, rows, folder)
    ten = folder / "ten.jsonl"
    ten.write_bytes(once.read_bytes() * 10)
    few = cost(seqpack(tokenizer, folder, engine, 1, first_rows(data, FEW_ROWS, folder)))
    small, large = cost(seqpack(tokenizer, folder, engine, 1, once)), cost(seqpack(tokenizer, folder, engine, 1, ten))
    more = (large.memory - small.memory) * 2**20 / (9 * rows)
    factor = (large.cpu - few.cpu) / (small.cpu - few.cpu)
    print(f"ten times {rows:,} rows: {factor:.1f}x the CPU without start, {more:,.0f} more bytes of memory a row")


def line(name: str, rows: int, start: Cost, total: Cost) -> str:
    rate = (total.cpu - start.cpu) / (rows - FEW_ROWS) * 1e6
    return (
        f"{rows:>7,} rows  {name:30s} {total.cpu:6.2f} CPU s (start {start.cpu:.2f}) {total.wall:6.2f} s "
        f"{total.memory:5.0f} MB {rate:6.1f} us/row"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("data", type=Path)
    parser.add_argument("rows", type=int, nargs="?")
    parser.add_argument("--trl", metavar="PYTHON")
    given = parser.parse_args()
    rows = given.rows or sum(1 for _ in given.data.open("rb"))
    with tempfile.TemporaryDirectory() as folder:
        compare(given.tokenizer, given.data, rows, Path(folder))
        if given.trl:
            beside_trl(given.trl, given.tokenizer, given.data, Path(folder))
        grow(given.tokenizer, given.data, rows, Path(folder))


if __name__ == "__main__":
    main()
