"""The values a command ran with, each with where it came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

Source = Literal["default", "config", "flag"]


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A command that takes one of these as a parameter can write ``resolved.yaml``."""

    command: str
    values: dict[str, Any]
    sources: dict[str, Source]

    def to_yaml(self) -> str:
        """A file that ``--config`` reads back; the source of each value stands behind it."""
        import yaml

        lines = [f"# seqpack {self.command} --config THIS_FILE"]
        for name, value in self.values.items():
            dumped = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=10_000)
            lines.append(f"{name}: {dumped.removesuffix('...' + chr(10)).strip()}  # {self.sources[name]}")
        return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
