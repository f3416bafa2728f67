"""What this package offers to seqpack; nothing named here is imported until somebody chooses it."""

from collections.abc import Iterator

from seqpack.api import Component, MetricSink, hookimpl

SEQPACK_PLUGIN_API = 1


@hookimpl
def seqpack_metric_sinks() -> Iterator[Component[MetricSink]]:
    yield Component("tensorboard", "seqpack_metrics.tensorboard:TensorBoardSink", "event files in SAVE/tensorboard")
    yield Component("wandb", "seqpack_metrics.trackers:WandbSink", "Weights & Biases, if wandb is installed")
    yield Component("swanlab", "seqpack_metrics.trackers:SwanLabSink", "SwanLab, if swanlab is installed")
    yield Component("mlflow", "seqpack_metrics.trackers:MlflowSink", "MLflow, if mlflow is installed")
