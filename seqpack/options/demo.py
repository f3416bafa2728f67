"""What ``seqpack demo`` accepts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqpack.options.field import option


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Demo"""

    output: Path = option(Path("demo-out"), "Folder for everything the demo makes.", short="-o")
    seed: int = option(1234, "Seed of the data and of the model's random weights.", min=0)
