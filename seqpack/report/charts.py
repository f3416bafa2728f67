"""Lengths and layouts as a picture: SVG and HTML by hand, PNG through Pillow. Nothing is loaded from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seqpack.core.errors import ConfigError, DeviceError
from seqpack.report.numbers import count, fine_share, share
from seqpack.report.png import write_whole
from seqpack.report.statistics import noun

if TYPE_CHECKING:
    from seqpack.pipeline.forecast import Stats

WIDTH, LEFT, RIGHT = 960, 76, 56
TOP, HEIGHT = 92, 260
"""Place and height of the histogram."""
BAR_LEFT, BAR_RIGHT, BAR_STEP = 210, 370, 26
INK, PALE, FILL, BEST, MARK, CURVE = "#222222", "#666666", "#77aadd", "#228833", "#cc3311", "#ee7733"
MOST_LABELS = 12

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through some points."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Label:
    """Text whose baseline begins, has its middle or ends at a point."""

    x: float
    y: float
    text: str
    size: int = 12
    anchor: Anchor = "start"
    colour: str = INK


Shape = Box | Stroke | Label


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes from back to front."""

    width: int
    height: int
    shapes: tuple[Shape, ...]


def check_chart(path: Path) -> None:
    """What can be known before there is anything to draw: ConfigError for another ending, DeviceError if Pillow is
    missing for a PNG, or there is no such folder."""
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(
            "SP001", f"--plot {path}: no such kind of picture", help=f"end the name with {' or '.join(_WRITERS)}"
        )
    if path.suffix.lower() == ".png":
        _pillow()
    if not path.parent.is_dir():
        raise DeviceError("SP503", f"{path} cannot be written: there is no folder {path.parent}", help="make it first")


def write_chart(path: Path, stats: Stats) -> str:
    """Draw the statistics into a .svg, .html or .png file; returns a sentence about it.

    Raises as ``check_chart`` does, and DeviceError if the file cannot be written.
    """
    check_chart(path)
    write_whole(path, _WRITERS[path.suffix.lower()](stats))
    return f"wrote {path}"


def draw(stats: Stats) -> Drawing:
    """The histogram above, a bar for each layout below."""
    tried = [each for each in stats.layouts if each.rows]
    bars_top = TOP + HEIGHT + 96
    height = bars_top + BAR_STEP * len(tried) + 24
    shapes = (*_heading(stats), *_histogram(stats), *_layouts(stats, bars_top))
    return Drawing(WIDTH, height, shapes)


def to_svg(drawing: Drawing) -> str:
    """The drawing as one SVG element."""
    size = f'viewBox="0 0 {drawing.width} {drawing.height}" width="{drawing.width}" height="{drawing.height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">']
    parts.append(f'<rect width="{drawing.width}" height="{drawing.height}" fill="#ffffff"/>')
    parts += map(_svg_shape, drawing.shapes)
    return "\n".join([*parts, "</svg>\n"])


def to_png(drawing: Drawing, *, scale: int = 2) -> bytes:
    """The drawing as PNG, ``scale`` pixels for each unit. DeviceError SP502 without Pillow."""
    _pillow()
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (drawing.width * scale, drawing.height * scale), "#ffffff")
    pen = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            right, bottom = (shape.x + shape.width) * scale - 1, (shape.y + shape.height) * scale - 1
            corner = (min(shape.x * scale, right), min(shape.y * scale, bottom))
            pen.rectangle((*corner, right, bottom), fill=shape.fill)
        elif isinstance(shape, Stroke):
            points = [(x * scale, y * scale) for x, y in shape.points]
            pen.line(points, fill=shape.colour, width=max(1, round(shape.width * scale)))
        else:
            font = ImageFont.load_default(shape.size * scale)
            place = (shape.x * scale, shape.y * scale)
            pen.text(place, shape.text, fill=shape.colour, font=font, anchor=anchors[shape.anchor])
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DeviceError(
            "SP502",
            "--plot FILE.png needs the package pillow",
            help='pip install "seqpack-toolkit[plot]", or draw a .svg or .html, which need nothing',
        ) from error


def _svg_file(stats: Stats) -> bytes:
    return to_svg(draw(stats)).encode()


def _png_file(stats: Stats) -> bytes:
    return to_png(draw(stats))


def _html_file(stats: Stats) -> bytes:
    """The drawing, and the numbers as tables."""
    names = ("layout", "rows", "over bound", "filled", "cut samples", "mixing", "balance", "vs best")
    layouts = []
    for each in stats.layouts:
        quality = each.quality
        over, mixing, balance = ("–",) * 3
        if quality:
            over, mixing, balance = (
                fine_share(quality.over),
                f"{quality.design_effect:.2f}",
                f"{quality.cost_cv:.2f}",
            )
        cells = (f"{each.rows:,}", over, share(each.fill), f"{each.cut_samples:,}", mixing, balance)
        layouts.append(
            (each.name, *cells, f"{each.versus_best:.2f}x") if each.rows else (each.name, *("–",) * 6, each.note)
        )
    lengths = [
        (f"{each.seq_length:,}", f"{each.rows:,}", share(each.fill), share(each.kept)) for each in stats.candidates
    ]
    described = [tuple(f"{value:,.1f}" for value in stats.describe.values())]
    files = "".join(f"<li>{escape(file)}</li>" for file in stats.files)
    body = (
        to_svg(draw(stats)),
        f"<h2>Tokens per {noun(stats)}</h2>",
        _html_table(tuple(stats.describe), described),
        f"<h2>Layouts at --seq-length {stats.seq_length:,}</h2>",
        _html_table(names, layouts),
        "<h2>Other lengths, about</h2>",
        _html_table(("--seq-length", "packs", "filled", "tokens kept"), lengths),
        f"<h2>Files</h2><ul>{files}</ul>",
    )
    style = (
        "body{font-family:sans-serif;max-width:60em;margin:2em auto;color:#222}svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse}td,th{padding:.2em .9em;text-align:right;border-bottom:1px solid #ddd}"
        "td:first-child,th:first-child{text-align:left}"
    )
    head = f'<meta charset="utf-8"><title>{escape(_title(stats))}</title><style>{style}</style>'
    lines = ["<!DOCTYPE html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>\n"]
    return "\n".join(lines).encode()


_WRITERS = {".svg": _svg_file, ".html": _html_file, ".png": _png_file}


def _html_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _svg_shape(shape: Shape) -> str:
    if isinstance(shape, Box):
        place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
        return f'<rect {place} fill="{shape.fill}"/>'
    if isinstance(shape, Stroke):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        return f'<polyline points="{points}" fill="none" stroke="{shape.colour}" stroke-width="{shape.width:g}"/>'
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" text-anchor="{shape.anchor}"'
    return f'<text {place} fill="{shape.colour}">{escape(shape.text)}</text>'


def _title(stats: Stats) -> str:
    names = [Path(file).name for file in stats.files]
    listed = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1:,} more" if names else stats.source
    return f"Token lengths of {listed}"


def _heading(stats: Stats) -> Iterator[Shape]:
    yield Label(24, 34, _title(stats), size=20)
    samples = count(int(stats.describe["count"]), noun(stats))
    quantiles = " · ".join(f"{name} {value:,}" for name, value in stats.quantiles.items())
    totals = f"{samples} · {stats.num_tokens:,} tokens · mean {stats.mean:,.0f} · {quantiles} · max {stats.maximum:,}"
    if taken := stats.sampled:
        totals = f"{taken.taken:,} of {taken.seen:,} rows · {totals} · mean ± {taken.mean_error:,.1f}"
    yield Label(24, 56, totals, size=13, colour=PALE)


def _histogram(stats: Stats) -> Iterator[Shape]:
    """Bars of equal width for buckets that grow, the curve of their sum, and where the length cuts."""
    buckets = stats.histogram
    step, bottom = (WIDTH - LEFT - RIGHT) / len(buckets), TOP + HEIGHT
    largest = max(bucket.samples for bucket in buckets)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - part * HEIGHT
        yield Stroke(((LEFT, y), (WIDTH - RIGHT, y)), "#dddddd")
        yield Label(LEFT - 8, y + 4, f"{round(part * largest):,}", anchor="end", colour=PALE)
        yield Label(WIDTH - RIGHT + 8, y + 4, f"{part:.0%}", colour=PALE)
    skip = -(-len(buckets) // MOST_LABELS)
    for number, bucket in enumerate(buckets):
        x, height = LEFT + number * step, bucket.samples / largest * HEIGHT
        yield Box(x + 1, bottom - height, step - 2, height, FILL)
        if number % skip == 0:
            yield Label(x, bottom + 18, f"{bucket.low:,}", anchor="middle", colour=PALE)
    curve: list[tuple[float, float]] = [(LEFT, bottom)]
    curve += [(LEFT + (n + 1) * step, bottom - bucket.share * HEIGHT) for n, bucket in enumerate(buckets)]
    yield Stroke(tuple(curve), CURVE, 2)
    yield Label((LEFT + WIDTH - RIGHT) / 2, bottom + 38, f"tokens in a {noun(stats)}", anchor="middle", colour=PALE)
    yield Label(LEFT, TOP - 10, f"{noun(stats)}s", anchor="end", colour=PALE)
    yield Label(WIDTH - RIGHT, TOP - 10, "cumulated", anchor="middle", colour=CURVE)
    place = LEFT + step * _place(stats.seq_length, [bucket.low for bucket in buckets] + [buckets[-1].high + 1])
    for low, high in pairwise(range(TOP, bottom + 1, 8)):
        if (low - TOP) // 8 % 2 == 0:
            yield Stroke(((place, low), (place, high)), MARK, 1.5)
    anchor: Anchor = "end" if place > WIDTH / 2 else "start"
    text = f"--seq-length {stats.seq_length:,}"
    yield Label(place + (-6 if anchor == "end" else 6), TOP + 0.45 * HEIGHT, text, anchor=anchor, colour=MARK)


def _place(value: int, edges: list[int]) -> float:
    """Where a length lies between edges that are drawn at equal distances, at an end if it is beyond it."""
    for number, (low, high) in enumerate(pairwise(edges)):
        if value < high:
            return number + max(0.0, (value - low) / (high - low))
    return float(len(edges) - 1)


def _layouts(stats: Stats, top: int) -> Iterator[Shape]:
    tried = [each for each in stats.layouts if each.rows]
    most, room = max(each.elements for each in tried), WIDTH - BAR_LEFT - BAR_RIGHT
    yield Label(24, top - 14, "Tokens computed in one epoch, padding included", size=15)
    for number, each in enumerate(tried):
        y, width = top + number * BAR_STEP, room * each.elements / most
        yield Label(BAR_LEFT - 10, y + 15, each.name, anchor="end")
        yield Box(BAR_LEFT, y, max(width, 1), BAR_STEP - 7, BEST if each.versus_best == 1 else FILL)
        text = f"{each.elements:,} · {each.rows:,} rows · {share(each.fill)} filled · {each.versus_best:.2f}x"
        yield Label(BAR_LEFT + width + 8, y + 15, text, colour=PALE)
