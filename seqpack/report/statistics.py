"""Screens of ``seqpack stats``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from seqpack.pipeline.layouts import KEPT_TOKENS
from seqpack.report.numbers import bar, count, fine_share, share
from seqpack.report.packs import short_key
from seqpack.report.tables import plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from seqpack.pipeline.characters import Characters
    from seqpack.pipeline.forecast import Ending, Stats
    from seqpack.pipeline.layouts import Layout

BAR_WIDTH = 28
ENDINGS_LISTED = 3
LEGEND = """\
over: rows above that bound · cut: samples not kept whole
mixing: 1 is a random draw, more is samples of like length together
balance: variation of attention work from pack to pack"""


def stats_screen(stats: Stats) -> Iterator[RenderableType]:
    """Totals, histogram, cost of every layout, steps, other lengths."""
    yield Text(f"{_what(stats)}\n{_totals(stats)}\n")
    yield describe_table(stats.describe)
    yield Text()
    yield _histogram(stats)
    given = "" if stats.seq_length_was_given else " (suggested)" if stats.source != "packed set" else " (its own)"
    about = "about " if stats.sampled else ""
    yield Text(f"\nWhat each layout would cost at --seq-length {stats.seq_length:,}{given}, one epoch")
    yield _layouts(stats)
    yield Text(f"no packing can need fewer than {about}{stats.fewest_rows:,} rows\n{LEGEND}", style="dim")
    for each in stats.layouts:
        if each.note:
            yield Text(f"{each.name}: {each.note}", style="dim")
    yield Text(_work(stats))
    yield Text("\nOther lengths, about")
    yield _candidates(stats)
    yield Text()


def characters_screen(found: Characters) -> Iterator[RenderableType]:
    """The eight rows, and what was counted."""
    rows = count(int(found.describe["count"]), "row")
    part = f" ({found.taken:,} of {found.seen:,} were taken)" if found.seen else ""
    yield Text(f"characters of {found.counted} · {rows}{part} · {count(len(found.files), 'file')}")
    yield describe_table(found.describe)
    if found.rejected:
        yield Text(f"{count(found.rejected, 'row')} not counted: nothing that could be", style="yellow")
    yield Text("characters are not tokens: leave out --characters to measure what --seq-length is about", style="dim")


def describe_table(values: dict[str, float]) -> Table:
    """count, mean, std, min, 25%, 50%, 75%, max beside each other."""
    table = plain_table(*((name, "right") for name in values))
    table.add_row(
        *(f"{value:,.0f}" if name in ("count", "min", "max") else f"{value:,.1f}" for name, value in values.items())
    )
    return table


def endings_line(endings: tuple[Ending, ...], kept: int) -> str:
    """On which token the training of samples ends."""
    listed = []
    for ending in endings[:ENDINGS_LISTED]:
        samples = "all samples" if ending.samples == kept else share(ending.samples / kept)
        listed.append(f"{_quoted(ending.text)} ({ending.token_id}) in {samples}")
    more = len(endings) - ENDINGS_LISTED
    return f"last trained token: {', '.join(listed)}{f', and {more:,} others' if more > 0 else ''}"


def _quoted(text: str) -> str:
    return repr(text)[1:-1]


def noun(stats: Stats) -> str:
    """What is measured one by one."""
    return "document" if stats.source == "pretraining text" else "sample"


def _what(stats: Stats) -> str:
    """What was measured."""
    part = ""
    if taken := stats.sampled:
        part = f"{taken.share:.4%}".replace("%", "").rstrip("0").rstrip(".")
        part = f" from {part} % of the rows ({taken.taken:,} of {taken.seen:,}, --seed {taken.seed})"
    measured = count(int(stats.describe["count"]), noun(stats)) + part
    parts = (measured, count(len(stats.files), "file"), f"handler {stats.handler}", f"template {stats.prompt_type}")
    source = () if stats.source == "raw files" else (stats.source,)
    engine = (stats.engine,) if stats.engine else ()
    return " · ".join((*source, *parts, *engine))


def _totals(stats: Stats) -> str:
    ledger = stats.ledger
    trained = share(ledger.trained / ledger.kept.tokens)
    taken = stats.sampled
    if taken is None:
        quantiles = " · ".join(f"{name} {value:,}" for name, value in stats.quantiles.items())
        return (
            f"{stats.num_tokens:,} tokens · {trained} trained on · mean {stats.mean:,.0f} · {quantiles} · "
            f"max {stats.maximum:,}"
        )
    quantiles = " · ".join(
        f"{name} {value:,} ({taken.quantile_ranges[name][0]:,}-{taken.quantile_ranges[name][1]:,})"
        for name, value in stats.quantiles.items()
    )
    return (
        f"about {taken.num_tokens:,} ± {taken.tokens_error:,} tokens in all rows · {trained} trained on · "
        f"mean {stats.mean:,.1f} ± {taken.mean_error:,.1f}\n{quantiles} · longest taken {stats.maximum:,}\n"
        "± and ranges: one standard error of taking a part"
    )


def _histogram(stats: Stats) -> Table:
    noun = "document" if stats.source == "pretraining text" else "sample"
    table = plain_table(
        (f"tokens/{noun}", "right"), ("", "left"), (f"{noun}s", "right"), ("cumulated", "right"), ("", "left")
    )
    largest = max(bucket.samples for bucket in stats.histogram)
    for bucket in stats.histogram:
        mark = "◂ seq-length" if bucket.low <= stats.seq_length <= bucket.high else ""
        filled = bar(bucket.samples, largest, width=BAR_WIDTH)
        table.add_row(f"{bucket.low:,}-{bucket.high:,}", filled, f"{bucket.samples:,}", share(bucket.share), mark)
    return table


def _layouts(stats: Stats) -> Table:
    names = ("rows", "over", "filled", "cut", "mixing", "balance", "vs best")
    table = plain_table(("layout", "left"), *((name, "right") for name in names))
    for each in stats.layouts:
        if each.rows:
            table.add_row(*_layout_cells(each), style="bold" if each.versus_best == 1 else "")
    return table


def _layout_cells(each: Layout) -> tuple[str, ...]:
    over, mixing, balance = "–", "–", "–"
    if quality := each.quality:
        over, mixing, balance = (
            fine_share(quality.over),
            f"{quality.design_effect:.2f}",
            f"{quality.cost_cv:.2f}",
        )
    filled, cut = share(each.fill), f"{each.cut_samples:,}"
    return (each.name, f"{each.rows:,}", over, filled, cut, mixing, balance, f"{each.versus_best:.2f}x")


def _work(stats: Stats) -> str:
    steps = stats.steps
    return (
        f"attention inside packed samples: {share(stats.attended_share)} of full rows of {stats.seq_length:,}\n"
        f"steps per epoch of {count(steps.batch_size, 'row')}: {steps.unpacked:,} unpacked, {steps.packed:,} packed "
        f"({steps.samples_per_packed_step:,.1f} samples a step)"
    )


def _candidates(stats: Stats) -> Table:
    """Other lengths; the shortest that is long enough is marked."""
    names = ("--seq-length", "packs", "filled", "longer", "tokens kept")
    table = plain_table(*((name, "right") for name in names), ("", "left"))
    enough = next((each.seq_length for each in stats.candidates if each.kept >= KEPT_TOKENS), None)
    for each in stats.candidates:
        mark = f"◂ shortest that keeps {share(KEPT_TOKENS)}" if each.seq_length == enough else ""
        cells = (f"{each.rows:,}", share(each.fill), f"{each.longer:,}", share(each.kept))
        table.add_row(f"{each.seq_length:,}", *cells, mark)
    return table


def copies_line(stats: Stats) -> str:
    """How many samples are copies, or an empty string."""
    copies = stats.copies
    if copies is None or not copies.number:
        return ""
    are = "sample is an exact copy" if copies.number == 1 else "samples are exact copies"
    example = f"{short_key(copies.key)} repeats {short_key(copies.of)}"
    return f"{copies.number:,} {are} of earlier ones: {example}"
