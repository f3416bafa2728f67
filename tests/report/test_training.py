"""What a run shows, in a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from seqpack.options.output import OutputOptions
from seqpack.report.console import Console
from seqpack.report.training import TrainReporter, show_context_prices, show_result, show_summary, sparkline
from seqpack.train.metrics import StepMetrics
from seqpack.train.summary import ContextPrice, RunSummary, TrainResult

SUMMARY = RunSummary(
    data="data/[set]",
    num_rows=1200,
    num_steps=5,
    epochs=0.5,
    global_batch_size=8,
    micro_batch_size=2,
    num_tokens=20_000,
    num_targets=12_500,
    packed=True,
    mask="block-causal",
    model="tiny:qwen2",
    model_type="qwen2",
    num_parameters=1_234_567,
    random_weights=True,
    dtype="float32",
    device="cpu",
    attention="flash",
    parallel="dp 2",
    lr=1e-3,
    lr_decay_style="cosine",
    warmup_steps=1,
    save="runs/a",
    state_bytes=3 * 2**30,
    notes=("samples do not see each other",),
)
STEP = StepMetrics(
    step=1,
    loss=4.0,
    lr=1e-3,
    grad_norm=0.5,
    num_rows=8,
    num_tokens=900,
    num_targets=500,
    num_padding=100,
    seconds=0.5,
    peak_memory=2**30,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stdout: io.StringIO, *, log_interval: int, output: OutputOptions | None = None) -> str:
    console = Console(output or OutputOptions(), stdout=stdout, stderr=stdout)
    with TrainReporter(console, SUMMARY, log_interval=log_interval) as reporter:
        for step in range(1, 6):
            metrics = replace(STEP, step=step, loss=float(5 - step), num_targets=500 if step < 4 else 1000)
            reporter.log(step, metrics.as_dict())
    return stdout.getvalue()


def test_header_says_what_runs() -> None:
    stdout = io.StringIO()
    show_summary(Console(OutputOptions(), stdout=stdout), SUMMARY)
    for part in (
        "data/[set]",
        "1,200 packs",
        "block-causal",
        "1.2M",
        "20,000, 12,500 of them trained; 4,000 and 2,500 a step",
        "do not see each other",
        "3.00 GiB a process",
    ):
        assert part in stdout.getvalue()


def test_prices_of_context_parallelism() -> None:
    stdout = io.StringIO()
    prices = [
        ContextPrice("headdoc", bytes_sent=1.5e6, balance=1.1, worst_balance=1.2, seconds=0.002, taken=0.75),
        ContextPrice("ring", bytes_sent=3e9, balance=1.5, worst_balance=1.75, seconds=0.003, taken=0.0),
    ]
    console = Console(OutputOptions(), stdout=stdout, stderr=stdout)
    show_context_prices(console, prices, chosen="ring")
    headdoc, ring = (line for line in stdout.getvalue().splitlines() if "MB" in line)
    assert [part in headdoc for part in ("1.50 MB", "1.10 (worst 1.20)", "2.000 ms", "75.0 %")] == [True] * 4
    assert "3,000.00 MB" in ring
    assert "%" not in ring
    assert "this run takes ring" in stdout.getvalue()
    silent = io.StringIO()
    show_context_prices(Console(OutputOptions(), stdout=silent), [], chosen="auto")
    assert silent.getvalue() == ""


def test_plain_lines_average_their_interval_and_end_with_the_last_step() -> None:
    lines = run(io.StringIO(), log_interval=2).splitlines()
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    # Losses 2 and 1 over 500 and 1,000 trained tokens.
    assert "loss 1.3333" in lines[1]
    assert "tokens/s 1,800" in lines[1]
    assert "padding 10.0 %" in lines[1]


def test_panel_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = run(Terminal(), log_interval=2)
    assert "waiting for the first step" in text
    assert "step 5 of 5" in text
    assert "0.5000  █▆▅▃▁" in text


@pytest.mark.parametrize("stdout", [io.StringIO(), Terminal()])
def test_quiet(stdout: io.StringIO) -> None:
    assert run(stdout, log_interval=1, output=OutputOptions(quiet=True)) == ""


def test_result() -> None:
    stdout = io.StringIO()
    result = TrainResult(
        num_steps=5,
        first_loss=4,
        last_loss=1,
        num_tokens=4500,
        num_targets=2500,
        num_padding=500,
        seconds=3,
        peak_memory=2**30,
        model_path="runs/a/model",
    )
    show_result(Console(OutputOptions(), stdout=stdout), result)
    for part in ("4.0000 -> 1.0000", "1,500 tokens/s", "padding 10.0 %", "1.00 GiB", "runs/a/model"):
        assert part in stdout.getvalue()


def test_sparkline() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([2, 2]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)), width=20)) == 20


def test_work_and_waiting_are_shown_if_they_are_known() -> None:
    stdout = io.StringIO()
    console = Console(OutputOptions(), stdout=stdout, stderr=stdout)
    busy = replace(STEP, flops=2e12, peak_flops=1e13, data_seconds=0.1, rank_skew=1.25)
    with TrainReporter(console, SUMMARY, log_interval=1) as reporter:
        reporter.log(1, {**busy.as_dict(), "eval_loss": 3.5})
    for part in ("TFLOP/s 4 ", "MFU 40.0 %", "data wait 20.0 %", "rank skew 1.25x", "val 3.5000"):
        assert part in stdout.getvalue()
    values = busy.as_dict()
    assert (values["tflops_per_second"], values["mfu"], values["trained_tokens_per_second"]) == (4.0, 0.4, 1000.0)
    assert "mfu" not in STEP.as_dict()
