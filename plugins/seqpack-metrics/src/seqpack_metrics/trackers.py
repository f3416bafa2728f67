"""Sinks that hand metrics on to a tracker which is installed; each is imported when its sink is made."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpack.api import DeviceError


class WandbSink:
    """Weights & Biases. The run's options are its configuration."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self._run = _package("wandb").init(project="seqpack", name=folder.name, dir=str(folder), config=dict(run))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class SwanLabSink:
    """SwanLab."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self._swanlab = _package("swanlab")
        self._swanlab.init(
            project="seqpack", experiment_name=folder.name, logdir=str(folder / "swanlab"), config=dict(run)
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._swanlab.log(dict(metrics), step=step)

    def close(self) -> None:
        self._swanlab.finish()


class MlflowSink:
    """MLflow."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self._mlflow = _package("mlflow")
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_params({name: str(value)[:500] for name, value in run.items()})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            "SP502", f"--metrics {name} needs the package {name}, which is not installed", help=f"pip install {name}"
        ) from error
