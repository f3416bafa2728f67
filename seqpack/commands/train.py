"""``seqpack train``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.commands.packages import require_training_packages
from seqpack.options.context import ContextOptions
from seqpack.options.megatron import ArchitectureOptions, MegatronOptions, RefusedTrainOptions
from seqpack.options.nodes import NodeOptions, Nodes, have_own_disks, nodes_to_start, refuse_checkpoints
from seqpack.options.output import OutputOptions
from seqpack.options.resolved import Resolved
from seqpack.options.train import LoraOptions, ModelOptions, ParallelOptions, RunOptions, TrainDataOptions, TrainOptions

if TYPE_CHECKING:
    from seqpack.hooks.component import Component
    from seqpack.hooks.specs import MetricSink
    from seqpack.report.console import Console
    from seqpack.train.plan import TrainPlan
    from seqpack.train.summary import RunSummary, TrainResult


def train(
    data: TrainDataOptions,
    model: ModelOptions,
    train: TrainOptions,
    run: RunOptions,
    lora: LoraOptions,
    parallel: ParallelOptions,
    nodes: NodeOptions,
    context: ContextOptions,
    architecture: ArchitectureOptions,
    megatron: MegatronOptions,
    refused: RefusedTrainOptions,
    output: OutputOptions,
    resolved: Resolved,
) -> None:
    """Train a model on a data set that preprocess or pack wrote.

    Whether samples of a pack see each other is read from the data set; a flag that contradicts it is refused. Writes
    SAVE/metrics.jsonl, SAVE/loss.png and SAVE/model, a Hugging Face directory. --dry-run shows what would run. A run
    that stopped goes on with --resume SAVE alone. Flags of Megatron-LM and MindSpeed-LLM are accepted: those that
    describe the model are checked, and what has no effect is said.

    Examples:
      seqpack train out/alpaca --model tiny:qwen2 --save runs/first
      seqpack train out/alpaca --model models/Qwen2.5-0.5B --neat-pack --epochs 3 --lr 1e-5 --save runs/alpaca
      seqpack train out/alpaca --model models/Qwen2.5-0.5B --save runs/alpaca --nproc 4 --save-interval 100
    """
    require_training_packages("training")
    sinks = _sinks(run)
    started = nodes_to_start(nodes, parallel.nproc, os.environ)
    own_disks = have_own_disks(nodes, started, os.environ)
    if own_disks:
        refuse_checkpoints(run)
    if started is not None and not run.dry_run:
        sys.exit(_launch(started, run, parallel))
    # Before torch starts its threads: waiting ones must not spin, or a second busy process slows this one tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from seqpack.models.architecture import check_architecture
    from seqpack.report.console import Console
    from seqpack.report.layout import show_layout
    from seqpack.report.training import show_context_prices, show_result, show_summary
    from seqpack.runtime.ranks import Ranks, ranks_of
    from seqpack.train.prepare import prepare

    ranks = ranks_of(os.environ) if started is None else Ranks(0, started.world_size)
    console = Console(output if ranks.first else replace(output, quiet=True, json=False))
    for note in [*megatron.notes(), *context.notes(parallel.context_parallel_size)]:
        console.note(note)
    plan = prepare(data, model, train, run, parallel, lora, ranks, context)
    check_architecture(architecture.given(), plan.model.config, plan.model.name)
    summary = plan.summary()
    show_summary(console, summary)
    if run.dry_run:
        prices = plan.context_prices()
        if plan.context is not None:
            show_context_prices(console, prices, chosen=plan.context.settings.name)
        estimate = plan.estimate if ranks.size > 1 else None
        if estimate is not None:
            show_layout(console, estimate)
        console.result(
            {
                "dry_run": True,
                "plan": summary.as_dict(),
                "layout": None if estimate is None else asdict(estimate),
                "context_parallel": [asdict(price) for price in prices],
            }
        )
        return
    if ranks.first:
        _record(resolved, run.save)
    result = _run(plan, summary, run, console, sinks, own_disks=own_disks)
    if ranks.first:
        _draw(run.save)
        show_result(console, result)
        console.result({"dry_run": False, "plan": summary.as_dict(), "result": result.as_dict()})


def _run(
    plan: TrainPlan,
    summary: RunSummary,
    run: RunOptions,
    console: Console,
    metrics: list[Component[MetricSink]],
    *,
    own_disks: bool,
) -> TrainResult:
    """The run itself; asked to stop, it ends with exit code 130 or 143 and the command to go on with."""
    from seqpack.report.training import TrainReporter
    from seqpack.runtime.device import device_errors
    from seqpack.runtime.ranks import joined
    from seqpack.train.run import execute
    from seqpack.train.stopping import RunStopped
    from seqpack.train.storage import check_storage

    try:
        with (
            joined(plan.ranks, plan.backend.device.type),
            device_errors(plan.backend),
            TrainReporter(console, summary, log_interval=run.log_interval) as reporter,
        ):
            check_storage(run.save, plan.ranks, own_disks=own_disks)
            sinks: list[MetricSink] = []
            if plan.ranks.first:
                sinks = [reporter, *(component.create(run.save, summary.as_dict()) for component in metrics)]
            result = execute(plan, sinks=sinks, checkpoints=not own_disks)
            for sink in sinks:
                sink.close()
            return result
    except RunStopped as stopped:
        how = f"saved {stopped.saved}; go on with: seqpack train --resume {run.save}"
        if stopped.signum == signal.SIGINT:
            raise KeyboardInterrupt(how) from stopped
        print(how, file=sys.stderr)
        sys.exit(128 + stopped.signum)


def _launch(nodes: Nodes, run: RunOptions, parallel: ParallelOptions) -> int:
    """This command again, in several processes; SP601 before any of them if they cannot be shared out."""
    from seqpack.runtime.parallel import ParallelPlan
    from seqpack.train.launch import launch

    ParallelPlan.from_options(parallel, nodes.world_size)
    return launch(sys.argv[1:], nodes, run.save / "logs")


def _sinks(run: RunOptions) -> list[Component[MetricSink]]:
    """What ``--metrics`` names; SP002 for a name that no plugin has."""
    from seqpack.hooks.host import plugin_host

    return [plugin_host().metric_sink(name) for name in run.metrics]


def _draw(save: Path) -> None:
    """The loss of all steps, also of those before a resume, as SAVE/loss.png."""
    import json

    from seqpack.report.curve import write_curve
    from seqpack.train.checks import METRICS_FILE

    lines = [json.loads(line) for line in (save / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    evaluations = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    write_curve(save / "loss.png", [line["loss"] for line in lines], evaluations)


def _record(resolved: Resolved, save: Path) -> None:
    """Write the options for ``--resume``; aside first, as a run may be killed at any moment."""
    save.mkdir(parents=True, exist_ok=True)
    partial = save / ".resolved.yaml.partial"
    partial.write_text(resolved.to_yaml(), encoding="utf-8")
    partial.replace(save / "resolved.yaml")
