"""What is measured in each step, and where it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step. ``loss`` is the mean over its ``num_targets`` trained tokens, or over samples or packs by
    ``--loss-reduction``; ``num_tokens`` counts real tokens, without the ``num_padding``; ``grad_norm`` is taken before
    clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    num_rows: int
    num_tokens: int
    num_targets: int
    num_padding: int
    seconds: float
    peak_memory: int

    def as_dict(self) -> dict[str, float]:
        """What sinks get; ``tokens_per_second`` counts real tokens."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "tokens_per_second": self.num_tokens / self.seconds if self.seconds else 0.0}


class MetricSink(Protocol):
    """Somewhere to write metrics to, step by step; steps are numbered from 1."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class JsonlSink:
    """One JSON object per step and line; each is on disk at once, so that a run can be watched."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
