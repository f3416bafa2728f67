"""What is measured in each step, and where it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step. ``loss`` is the mean over its ``num_targets`` trained tokens, or over samples or packs by
    ``--loss-reduction``; ``num_tokens`` counts real tokens, without the ``num_padding``; ``grad_norm`` is taken before
    clipping. ``flops`` are those of ``ModelFlops``, ``data_seconds`` is what this rank waited
    for its rows, ``rank_skew`` the largest share of the work over the mean share, and ``peak_flops`` what all devices
    together could do in a second, 0 if that is not known.
    """

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
    flops: float = 0.0
    data_seconds: float = 0.0
    rank_skew: float = 1.0
    peak_flops: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """What sinks get; ``tokens_per_second`` counts real tokens."""
        values = {name: getattr(self, name) for name in self.__slots__}
        seconds = self.seconds or float("inf")
        values["tokens_per_second"] = self.num_tokens / seconds
        values["trained_tokens_per_second"] = self.num_targets / seconds
        values["tflops_per_second"] = self.flops / seconds / 1e12
        if self.peak_flops:
            values["mfu"] = self.flops / seconds / self.peak_flops
        return values


class JsonlSink:
    """One JSON object per step and line; each is on disk at once, so that a run can be watched.

    ``keep`` steps of an older file stay: a run that goes on from a checkpoint takes the later ones again.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line, values in _lines(path) if values["step"] <= keep] if keep else []
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path, num_steps: int) -> list[StepMetrics]:
    """The first ``num_steps`` steps of a run, as far as its file has them."""
    names = StepMetrics.__slots__
    found = (values for _, values in _lines(path))
    return [StepMetrics(**{name: values[name] for name in names}) for values in found if values["step"] <= num_steps]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines with what they hold, up to one that a killed run has not finished."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not line.endswith("\n"):
            return
        yield line, values
