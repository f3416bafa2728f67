"""Numbers as people read them."""

from __future__ import annotations


def share(value: float) -> str:
    """0.9973 -> "99.7 %"; never rounds something to everything or to nothing."""
    text = f"{value:.1%}".replace("%", " %")
    if text == "100.0 %" and value < 1:
        return "99.9 %"
    if text == "0.0 %" and value > 0:
        return "<0.1 %"
    return text


def fine_share(value: float) -> str:
    """0.00134 -> "0.13 %"."""
    return f"{value:.2%}".replace("%", " %")


def count(number: int, noun: str) -> str:
    """1 -> "1 sample", 2000 -> "2,000 samples"."""
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def bar(value: float, largest: float, *, width: int) -> str:
    """A horizontal bar of at most ``width`` characters, in steps of an eighth."""
    eighths = round(width * 8 * value / largest) if largest else 0
    if value and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
