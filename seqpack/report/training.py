"""What ``seqpack train`` shows: what will run, how it goes, how it ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Self

from seqpack.report.numbers import share

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from seqpack.report.console import Console
    from seqpack.train.summary import ContextPrice, RunSummary, TrainResult

SPARK_LEVELS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 48
REFRESH_PER_SECOND = 4


def show_summary(console: Console, summary: RunSummary) -> None:
    """The header: what really runs, defaults filled in. Silent under ``-q``."""
    if console.options.quiet:
        return
    weights = "random weights" if summary.random_weights else "pretrained weights"
    kind = "packs" if summary.packed else "samples"
    rows = {
        "data": f"{summary.data}: {summary.num_rows:,} {kind}, mask {summary.mask}",
        "model": f"{summary.model} ({summary.model_type}): {_short(summary.num_parameters)} parameters, "
        f"{weights}, {summary.dtype}",
        "steps": f"{summary.num_steps:,} ({summary.epochs:.3g} epochs) of {summary.global_batch_size} rows, "
        f"{summary.micro_batch_size} at once",
        "tokens": f"{summary.num_tokens:,}, {summary.num_targets:,} of them trained; "
        f"{summary.num_tokens / summary.num_steps:,.0f} and {summary.num_targets / summary.num_steps:,.0f} a step",
        "rate": f"{summary.lr:g}, {summary.lr_decay_style}, {summary.warmup_steps:,} steps of warm-up",
        "runs on": f"{summary.device}, {summary.attention} attention, {summary.parallel}",
        "memory": f"{summary.state_bytes / 2**30:,.2f} GiB a process for weights, gradients and optimizer; activations "
        "come on top",
        "writes": summary.save,
    }
    console.print(_two_columns([*rows.items(), *(("note", note) for note in summary.notes)]))


def show_context_prices(console: Console, prices: Sequence[ContextPrice], *, chosen: str) -> None:
    """What each algorithm of context parallelism would cost; nothing without context parallelism."""
    if console.options.quiet or not prices:
        return
    from rich.table import Table

    table = Table(title="context parallelism: attention of one layer, forward and backward")
    for heading in ("algorithm", "sent by a rank", "work, most / mean", "time, reckoned", "auto takes it for"):
        table.add_column(heading, justify="left" if heading == "algorithm" else "right")
    for price in prices:
        table.add_row(
            price.algorithm,
            f"{price.bytes_sent / 1e6:,.2f} MB",
            f"{price.balance:.2f} (worst {price.worst_balance:.2f})",
            f"{price.seconds * 1e3:,.3f} ms",
            share(price.taken) if price.taken else "",
        )
    console.print(table)
    if chosen != "auto":
        console.note(f"this run takes {chosen}")


def show_result(console: Console, result: TrainResult) -> None:
    """The last lines of a run."""
    padding = share(result.num_padding / (result.num_tokens + result.num_padding))
    rows = {
        "loss": f"{result.first_loss:.4f} -> {result.last_loss:.4f} in {result.num_steps:,} steps",
        "tokens": f"{result.num_tokens:,}, {result.num_targets:,} of them trained; padding {padding}",
        "speed": f"{result.tokens_per_second:,.0f} tokens/s over {_duration(result.seconds)}; "
        f"peak memory {result.peak_memory / 2**30:.2f} GiB",
        "model": result.model_path,
    }
    console.print(_two_columns(rows.items()))


class TrainReporter:
    """A metric sink for people: a live panel on a terminal, a line every ``log_interval`` steps elsewhere."""

    def __init__(self, console: Console, summary: RunSummary, *, log_interval: int) -> None:
        self._console = console
        self._num_steps = summary.num_steps
        self._log_interval = log_interval
        self._recent: deque[Mapping[str, float]] = deque(maxlen=log_interval)
        self._losses: list[float] = []
        self._evaluations: list[tuple[int, float]] = []
        self._seconds = 0.0
        self._first_step = summary.first_step
        self._step = summary.first_step
        self._live: Live | None = None
        self._panel_due = 0.0

    def __enter__(self) -> Self:
        terminal = self._console.live
        if terminal is not None:
            from rich.live import Live

            # The panel is made in log(): Live draws from a thread of its own, which must not see half a step.
            self._live = Live(self._panel(), console=terminal, refresh_per_second=REFRESH_PER_SECOND, transient=True)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        self._losses.append(metrics["loss"])
        self._seconds += metrics["seconds"]
        if "eval_loss" in metrics:
            self._evaluations.append((step, metrics["eval_loss"]))
        self._recent.append(metrics)
        if self._live is not None:
            self._update_panel(self._live)
        elif step % self._log_interval == 0 or step == self._num_steps:
            self._console.note(self._line())
            self._recent.clear()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _update_panel(self, live: Live) -> None:
        """No more often than it is drawn: the curve goes over all steps so far."""
        now = time.monotonic()
        if now >= self._panel_due or self._step == self._num_steps:
            self._panel_due = now + 1 / REFRESH_PER_SECOND
            live.update(self._panel())

    def _values(self) -> dict[str, str]:
        """Means over the recent steps, as text."""
        recent, last = self._recent, self._recent[-1]
        tokens, targets, padding, seconds = (
            sum(metrics[name] for metrics in recent) for name in ("num_tokens", "num_targets", "num_padding", "seconds")
        )
        loss = sum(metrics["loss"] * metrics["num_targets"] for metrics in recent) / targets
        remaining = self._seconds / (self._step - self._first_step) * (self._num_steps - self._step)
        return {
            "loss": f"{loss:.4f}",
            **({"val": f"{self._evaluations[-1][1]:.4f}"} if self._evaluations else {}),
            "lr": f"{last['lr']:.2e}",
            "grad norm": f"{last['grad_norm']:.3f}",
            "tokens/s": f"{tokens / seconds:,.0f}",
            "trained/s": f"{targets / seconds:,.0f}",
            "padding": share(padding / (tokens + padding)),
            **self._work(seconds),
            "left": _duration(remaining),
        }

    def _work(self, seconds: float) -> dict[str, str]:
        """How much is computed, and what keeps it from being more: only what is worth saying."""
        flops, waited = (sum(metrics.get(name, 0.0) for metrics in self._recent) for name in ("flops", "data_seconds"))
        last, values = self._recent[-1], {}
        if flops:
            values["TFLOP/s"] = f"{flops / seconds / 1e12:.3g}"
        if last.get("peak_flops"):
            values["MFU"] = share(flops / seconds / last["peak_flops"])
        values["data wait"] = share(waited / seconds)
        if (skew := last.get("rank_skew", 1.0)) >= 1.005:
            values["rank skew"] = f"{skew:.2f}x"
        return values

    def _line(self) -> str:
        values = "  ".join(f"{name} {value}" for name, value in self._values().items())
        return f"step {self._step:,}/{self._num_steps:,}  {values}"

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        title = f"step {self._step:,} of {self._num_steps:,}"
        bar = Table.grid(expand=True)  # a bare bar does not end its line
        bar.add_row(ProgressBar(total=self._num_steps, completed=self._step))
        if not self._recent:
            return Panel(Group(bar, "waiting for the first step"), title=title)
        values = self._values()
        values["loss"] += f"  {sparkline(self._losses)}"
        return Panel(Group(bar, _two_columns(values.items())), title=title)


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The course of the values as ``width`` bars at most, each the mean of equally many: [1, 2, 3] -> "▁▅█"."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(SPARK_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARK_LEVELS[round((mean - low) * scale)] for mean in means)


def _two_columns(rows: Iterable[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _short(count: int) -> str:
    """1234567 -> 1.2M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
