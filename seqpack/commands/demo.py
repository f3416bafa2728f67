"""``seqpack demo``: the public commands one after the other, on data made for it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpack.commands.packages import require_training_packages
from seqpack.core.errors import ConfigError
from seqpack.options.demo import DemoOptions
from seqpack.options.output import OutputOptions

if TYPE_CHECKING:
    from rich.table import Table

    from seqpack.report.console import Console

MARKER = ".seqpack-demo"
"""A folder with this file was made by the demo, which may replace it."""

SAMPLES_TO_SHOW = range(4, 8)
"""Samples in the pack that is shown: enough to see what packing is, few enough for a picture of the mask."""

LOSS_MUST_FALL_TO = 0.5
FIRST_STEPS, LAST_STEPS = 5, 20
"""Steps that the loss at the start and at the end are means over; steps are small and differ."""

WARM_UP_STEPS = 3
"""Steps left out where speed is measured."""

STDERR = 2
COMMAND_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of the demo: about two minutes on one core. Tests use smaller ones.

    ``samples_at_once`` is where padded training is fastest: of 1, 2, 4, 8 and 16, 4 had the most tokens per second.
    """

    rows: int = 6000
    seq_length: int = 512
    train_iters: int = 1000
    packs_per_step: int = 2
    padded_iters: int = 60
    samples_per_step: int = 16
    samples_at_once: int = 4
    lr: float = 3e-3


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the demo measured."""

    fill_packed: float
    fill_padded: float
    tokens_per_second_packed: float
    tokens_per_second_padded: float
    loss_start: float
    loss_end: float
    task: str
    heldout_rows: int
    exact_match: float
    tensors: int
    identical: bool
    seconds: float

    def failures(self) -> list[str]:
        """Promises of the demo that were not kept, as sentences."""
        failures = []
        if not self.loss_end < LOSS_MUST_FALL_TO * self.loss_start:
            failures.append(f"the loss fell from {self.loss_start:.3f} to {self.loss_end:.3f}, not by more than half")
        if not self.identical:
            failures.append("the weights differ after the way to Megatron-core and back")
        return failures


def demo(demo: DemoOptions, output: OutputOptions) -> None:
    """The whole road on a small data set made for it, in about two minutes on a CPU.

    Makes data and a tokenizer, then runs stats, preprocess, show, train and convert, each as you would type it; ends
    with a table of what packing brought. The exit code is 1 if the model did not learn or its weights changed.

    Examples:
        seqpack demo
        seqpack demo -o /tmp/demo --seed 7
        seqpack demo --json > demo.json
    """
    run_demo(demo, output, Recipe())


def run_demo(demo: DemoOptions, output: OutputOptions, recipe: Recipe) -> None:
    """The demo with other sizes. SystemExit carries the exit code of a step that failed, or 1 for a broken promise."""
    from seqpack.report.console import Console

    require_training_packages("the demo, which trains a model,")
    _claim_folder(demo.output)
    console = Console(output)
    numbers = _run_steps(Steps(console, output), demo, recipe)
    failures = numbers.failures()
    console.note("")
    console.print(_table(numbers))
    console.note(f"everything is in {demo.output}; it took {numbers.seconds:.0f} s")
    for failure in failures:
        print(f"demo failed: {failure}", file=sys.stderr)
    console.result({"output": str(demo.output), "seed": demo.seed, **asdict(numbers), "failures": failures})
    if failures:
        raise SystemExit(1)


@dataclass(slots=True)
class Steps:
    """Runs commands in processes of their own, showing each first as one would type it."""

    console: Console
    output: OutputOptions
    started: float = field(default_factory=time.monotonic)

    def seqpack(self, title: str, *arguments: object) -> None:
        """A command of ours; what it prints goes straight to the person."""
        words = [str(argument) for argument in arguments]
        self._run(title, ["seqpack", *words], ["-m", "seqpack", *words], stdout=self._stdout())

    def script(self, title: str, name: str, *arguments: object) -> None:
        """A script of the demo."""
        words = [str(scripts_folder() / name), *map(str, arguments)]
        self._run(title, ["python", *words], words, stdout=self._stdout())

    def script_result(self, title: str, name: str, *arguments: object) -> dict[str, Any]:
        """A script of the demo that prints one JSON object."""
        words = [str(scripts_folder() / name), *map(str, arguments)]
        printed = self._run(title, ["python", *words], words, stdout=subprocess.PIPE)
        self._say(printed.strip())
        result: dict[str, Any] = json.loads(printed)
        return result

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def _run(self, title: str, shown: Sequence[str], arguments: Sequence[str], *, stdout: int | None) -> str:
        self._say(f"\n# {title}", "bold")
        self._say(f"$ {command_line(shown)}", "cyan")
        sys.stdout.flush()
        started = time.monotonic()
        done = subprocess.run([sys.executable, *arguments], stdout=stdout, text=True, check=False)
        self.console.detail(f"took {time.monotonic() - started:.1f} s")
        if done.returncode:
            print(f"demo stopped: this step ended with exit code {done.returncode}", file=sys.stderr)
            self.console.result({"failed_step": shlex.join(shown), "exit_code": done.returncode})
            raise SystemExit(done.returncode)
        return done.stdout or ""

    def _stdout(self) -> int | None:
        """Where a step's own output goes: ``--json`` keeps stdout for the one object at the end."""
        if self.output.quiet:
            return subprocess.DEVNULL
        return STDERR if self.output.json else None

    def _say(self, text: str, style: str = "") -> None:
        self.console.note(text, style)


def _run_steps(steps: Steps, demo: DemoOptions, recipe: Recipe) -> Numbers:
    out = demo.output
    data, heldout, tokenizer = out / "data" / "train.jsonl", out / "data" / "heldout.jsonl", out / "tokenizer"
    _make_data(steps, demo, recipe, data, tokenizer)
    packed, padded = _train(steps, demo, recipe)
    trip = _round_trip(steps, packed / "model", out)
    answers = steps.script_result(
        "Ask it held-out questions of the easiest task",
        "evaluate.py",
        packed / "model",
        *("--data", heldout),
    )
    return measure(read_metrics(packed), read_metrics(padded), answers, trip, steps.seconds)


def _make_data(steps: Steps, demo: DemoOptions, recipe: Recipe, data: Path, tokenizer: Path) -> None:
    """Rows, tokenizer, and two data sets of them: OUT/packed/demo and OUT/plain/demo."""
    steps.script(
        "Make an instruction data set",
        "make_data.py",
        *("--output", data.parent, "--rows", recipe.rows, "--seed", demo.seed),
    )
    steps.script("Train a tokenizer on it", "make_tokenizer.py", data, "--output", tokenizer)
    text = ("--tokenizer", tokenizer, "--prompt-type", "qwen", "--seq-length", recipe.seq_length)
    steps.seqpack("How long are the samples, and what would packing bring?", "stats", data, *text)
    rows = (data, "--handler", "AlpacaStyleInstructionHandler", *text)
    packs = demo.output / "packed" / "demo"
    steps.seqpack("Tokenize and pack them", "preprocess", *rows, "--pack", "--neat-pack", "-o", packs)
    steps.seqpack("Look at one pack", "show", packs, "--pack", pack_to_show(packs))
    steps.seqpack(
        "The same samples unpacked, to compare with", "preprocess", *rows, "-o", demo.output / "plain" / "demo"
    )


def _train(steps: Steps, demo: DemoOptions, recipe: Recipe) -> tuple[Path, Path]:
    """Train on packs, then some steps on padded samples; returns the two run folders."""
    runs = demo.output / "run-packed", demo.output / "run-padded"
    # One thread: matrices this small gain little from more, and threads that wait for each other on a busy machine
    # cost a factor of ten.
    common = ("--model", "tiny:qwen2", "--lr", recipe.lr, "--seed", demo.seed, "--num-threads", 1)
    steps.seqpack(
        "Train a tiny model on the packs",
        *("train", demo.output / "packed" / "demo", "--neat-pack", "--reset-position-ids", *common),
        *("--train-iters", recipe.train_iters, "--log-interval", max(1, recipe.train_iters // 20)),
        *("--global-batch-size", recipe.packs_per_step, "--micro-batch-size", recipe.packs_per_step),
        *("-o", runs[0]),
    )
    steps.seqpack(
        "Train a little on padded samples, as many tokens a step, to compare the speed",
        *("train", demo.output / "plain" / "demo", "--pad-to", "longest", *common),
        *("--train-iters", recipe.padded_iters, "--log-interval", max(1, recipe.padded_iters // 4)),
        *("--global-batch-size", recipe.samples_per_step, "--micro-batch-size", recipe.samples_at_once),
        *("-o", runs[1]),
    )
    return runs


def _round_trip(steps: Steps, model: Path, out: Path) -> dict[str, Any]:
    """To Megatron-core and back; returns what compare_weights.py found."""
    steps.seqpack("Convert the model to Megatron-core", "convert", model, "--to", "mcore", "-o", out / "mcore")
    steps.seqpack("And back", "convert", out / "mcore", "--to", "hf", "-o", out / "back")
    return steps.script_result("Are the weights the same, bit for bit?", "compare_weights.py", model, out / "back")


def measure(
    packed: Sequence[dict[str, float]],
    padded: Sequence[dict[str, float]],
    answers: dict[str, Any],
    trip: dict[str, Any],
    seconds: float,
) -> Numbers:
    """The numbers of the table, from the metrics of both runs and from what the scripts printed."""
    return Numbers(
        fill_packed=_fill(packed),
        fill_padded=_fill(padded),
        tokens_per_second_packed=_speed(packed),
        tokens_per_second_padded=_speed(padded),
        loss_start=_mean_loss(packed[:FIRST_STEPS]),
        loss_end=_mean_loss(packed[-LAST_STEPS:]),
        task=answers["task"],
        heldout_rows=answers["rows"],
        exact_match=answers["exact_match"],
        tensors=trip["tensors"],
        identical=trip["identical"],
        seconds=seconds,
    )


def _fill(steps: Iterable[dict[str, float]]) -> float:
    """Share of the computed tokens that are not padding."""
    counts = [(step["num_tokens"], step["num_padding"]) for step in steps]
    tokens, padding = map(sum, zip(*counts, strict=True))
    return tokens / (tokens + padding)


def _speed(steps: Sequence[dict[str, float]]) -> float:
    """Tokens per second, padding not counted."""
    measured = steps[WARM_UP_STEPS:] or steps
    return sum(step["num_tokens"] for step in measured) / sum(step["seconds"] for step in measured)


def _mean_loss(steps: Sequence[dict[str, float]]) -> float:
    """Mean over all trained tokens of these steps."""
    return sum(step["loss"] * step["num_targets"] for step in steps) / sum(step["num_targets"] for step in steps)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """One object per step of a training run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def pack_to_show(prefix: Path) -> int:
    """Of the packs with several samples, but not too many to see them, the one whose lengths differ most."""
    from seqpack.io.packed import PackedDataset

    dataset = PackedDataset.open(prefix)
    spread = {}
    for pack, (start, end) in enumerate(pairwise(dataset.offsets)):
        lengths = dataset.pieces.length[start:end]
        if len(lengths) in SAMPLES_TO_SHOW:
            spread[pack] = lengths.max() / lengths.min()
    return max(spread, key=spread.__getitem__, default=0)


def scripts_folder() -> Path:
    """Where the scripts of the demo are: inside an installed package, in ``examples`` of a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "_demo"
    folder = installed if installed.is_dir() else package.parent / "examples" / "demo"
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def command_line(words: Sequence[str]) -> str:
    r"""The words quoted for a shell, long lines continued with ``\`` before a flag, so that they can be copied."""
    lines = [""]
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        quoted = shlex.quote(word)
        # A flag and its value stay together.
        needed = quoted if following.startswith("-") else f"{quoted} {shlex.quote(following)}"
        if word.startswith("-") and len(lines[-1]) + len(needed) >= COMMAND_WIDTH:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {quoted}" if lines[-1] else quoted
    return " \\\n".join(lines)


def _claim_folder(folder: Path) -> None:
    """An empty folder with our marker; ConfigError if something else is there."""
    import shutil

    if folder.exists() and not folder.is_dir():
        raise ConfigError("SP004", f"{folder} is a file", help="choose another folder with --output")
    if folder.is_dir() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise ConfigError(
            "SP004",
            f"{folder} exists and was not made by the demo, so the demo does not replace it",
            help="choose another folder with --output",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / MARKER).write_text("made by seqpack demo, which replaces everything in this folder\n", encoding="utf-8")


def _table(numbers: Numbers) -> Table:
    from rich.table import Table

    ratio = numbers.tokens_per_second_packed / numbers.tokens_per_second_padded
    rows = (
        ("filled with tokens, the rest is padding", f"{numbers.fill_packed:.1%}", f"{numbers.fill_padded:.1%}"),
        (
            f"tokens per second ({ratio:.1f} x)",
            f"{numbers.tokens_per_second_packed:,.0f}",
            f"{numbers.tokens_per_second_padded:,.0f}",
        ),
        ("loss at the start", f"{numbers.loss_start:.3f}", ""),
        ("loss at the end", f"{numbers.loss_end:.3f}", ""),
        (
            f"right answers, of {numbers.heldout_rows} held-out '{numbers.task}' questions",
            f"{numbers.exact_match:.1%}",
            "",
        ),
        (
            f"the {numbers.tensors} weights after Megatron-core and back",
            "bit-identical" if numbers.identical else "DIFFERENT",
            "",
        ),
    )
    table = Table("", "packed", "padded")
    for row in rows:
        table.add_row(*row)
    return table
