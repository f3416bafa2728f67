from __future__ import annotations

import json
from pathlib import Path

from seqpack.train.metrics import JsonlSink, StepMetrics

METRICS = StepMetrics(
    step=3,
    loss=1.5,
    lr=1e-4,
    grad_norm=0.5,
    num_rows=2,
    num_tokens=100,
    num_targets=60,
    num_padding=4,
    seconds=0.5,
    peak_memory=1024,
)


def test_speed_counts_real_tokens() -> None:
    assert METRICS.as_dict()["tokens_per_second"] == 200


def test_each_step_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.log(3, METRICS.as_dict())
    assert json.loads(path.read_text())["step"] == 3
    sink.close()
    assert path.read_text().endswith("}\n")
