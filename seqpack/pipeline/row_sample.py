"""A part of the rows, chosen by their places and a seed: the same rows for any number of workers and in any order."""

from __future__ import annotations

from dataclasses import dataclass

from seqpack.core.errors import ConfigError

_WORD = (1 << 64) - 1


@dataclass(slots=True)
class RowSample:
    """Each row is taken with probability ``share``; ``seen`` counts all rows, ``taken`` those."""

    share: float
    seed: int
    seen: int = 0
    taken: int = 0

    def takes(self, file: int, line: int) -> bool:
        """Whether the row ``line`` of file number ``file`` is in the sample."""
        is_taken = _mix(_mix(_mix(self.seed) ^ file) ^ line) < self.share * _WORD
        self.seen += 1
        self.taken += is_taken
        return is_taken


def parse_share(text: str) -> float:
    """``1%`` or ``0.01``, above 0 and at most all; ConfigError SP001 for anything else."""
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError("SP001", f"--sample {text} is not a part of the rows", help="like --sample 1% or 0.01")
    return share


def _mix(value: int) -> int:
    """splitmix64: neighbouring numbers come out as far apart as any."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)
