"""``seqpack verify``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.commands.packages import require_training_packages
from seqpack.options.check import refuse_idle
from seqpack.options.context import ContextOptions
from seqpack.options.megatron import ArchitectureOptions, MegatronOptions, RefusedTrainOptions
from seqpack.options.nodes import NodeOptions, Nodes, nodes_to_start
from seqpack.options.output import OutputOptions
from seqpack.options.train import LoraOptions, ModelOptions, ParallelOptions, TrainDataOptions, TrainOptions
from seqpack.options.verify import VerifyOptions, VerifyRunOptions

if TYPE_CHECKING:
    from seqpack.core.check_result import CheckResult
    from seqpack.train.plan import TrainPlan


def verify(
    data: TrainDataOptions,
    model: ModelOptions,
    verify: VerifyOptions,
    train: TrainOptions,
    run: VerifyRunOptions,
    lora: LoraOptions,
    parallel: ParallelOptions,
    nodes: NodeOptions,
    context: ContextOptions,
    architecture: ArchitectureOptions,
    megatron: MegatronOptions,
    refused: RefusedTrainOptions,
    output: OutputOptions,
) -> None:
    """Try on your data and configuration whether packed training is right: nothing leaks, nothing is lost.

    Takes the options of train, so put verify in its place, or give --config SAVE/resolved.yaml of a run. Changes one
    sample at a time and looks whether others notice; compares logits, loss and gradients with one sample at a time;
    boundaries, positions, labels and padding with the data set on every rank; trained tokens with the raw texts.
    Exit code 1 if anything fails.

    Examples:
      seqpack verify out/alpaca --model models/Qwen2.5-0.5B --dtype float64
      seqpack verify out/alpaca --model models/Qwen2.5-0.5B --device cuda --dtype bfloat16 --full-size --json
      seqpack verify --config runs/alpaca/resolved.yaml --nproc 2
    """
    require_training_packages("verify")
    refuse_idle(
        run, ("dry_run",), because="verify writes and trains nothing", help="leave it out; --rows 1 makes it quick"
    )
    started = nodes_to_start(nodes, parallel.nproc, os.environ)
    if started is not None:
        sys.exit(_launch(started, parallel))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train
    from seqpack.models.architecture import check_architecture
    from seqpack.report.checks import check_screen, verdict
    from seqpack.report.console import Console
    from seqpack.runtime.device import device_errors
    from seqpack.runtime.ranks import joined, ranks_of
    from seqpack.train.prepare import prepare
    from seqpack.train.verify.run import verify_model

    ranks = ranks_of(os.environ)
    console = Console(output if ranks.first else replace(output, quiet=True, json=False))
    # Nothing is written, so what lies in --save is no obstacle.
    nowhere = replace(run, save=Path(os.devnull) / "none", resume=None, eval_interval=None, eval_iters=None)
    # Layers are not compiled: what is put around attention to watch it would be compiled with them, over and over.
    eager = replace(train, compile=False)
    plan = prepare(data, model, eager, nowhere, parallel, LoraOptions(), ranks, context)
    check_architecture(architecture.given(), plan.model.config, plan.model.name)
    sources = _sources(plan, verify.sources) if ranks.first and verify.sources else []
    with joined(ranks, plan.backend.device.type), device_errors(plan.backend):
        report = verify_model(plan, verify, console.progress)
    if not ranks.first:
        return
    left_out = [flag for flag, given in (("--lora-r", lora.lora_r), ("--compile", train.compile)) if given]
    notes = tuple(f"{flag} is left out: the model is checked as it is without" for flag in left_out)
    report = replace(report, checks=(*report.checks, *sources), notes=(*report.notes, *notes))
    console.print(*check_screen(report.on, report.checks, report.notes), verdict(report.checks, "all checks passed"))
    console.result(report.as_dict())
    if not report.passed:
        sys.exit(1)


def _sources(plan: TrainPlan, most: int) -> list[CheckResult]:
    """Trained tokens against the raw rows, for each set of --data-path."""
    from seqpack.core.check_result import CheckResult
    from seqpack.io.documents import DocumentRows
    from seqpack.io.foreign import ForeignDataset
    from seqpack.pipeline.source_check import NAME, check_sources

    found = []
    for dataset in plan.dataset.sets:
        if isinstance(dataset, DocumentRows | ForeignDataset):
            found.append(CheckResult(NAME, "skipped", f"{dataset.paths.prefix} does not say where its rows come from"))
        else:
            found.append(check_sources(dataset, most=most, tokenizer_dir=plan.tokenizer_dir))
    return found


def _launch(nodes: Nodes, parallel: ParallelOptions) -> int:
    """This command again, in several processes; what the others say is shown if one of them fails."""
    import tempfile

    from seqpack.runtime.parallel import ParallelPlan
    from seqpack.train.launch import launch

    ParallelPlan.from_options(parallel, nodes.world_size)
    with tempfile.TemporaryDirectory(prefix="seqpack-verify-") as logs:
        return launch(sys.argv[1:], nodes, Path(logs))
