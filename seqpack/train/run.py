"""A training run: the model is built, trained and saved."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import seqpack
from seqpack.core.errors import ConfigError
from seqpack.models.compiling import compile_layers
from seqpack.models.lora import LoraSettings, adapter_weights, add_lora
from seqpack.models.materialize import empty_model, materialize
from seqpack.models.packed import PackedLM
from seqpack.models.recompute import recompute
from seqpack.options.train import (
    TrainOptions,
)
from seqpack.runtime.agreement import check_agreement
from seqpack.runtime.watchdog import watched
from seqpack.train.assemble import Observe, as_it_is, assemble
from seqpack.train.checkpoint import save_adapter, save_hf
from seqpack.train.checks import (
    METRICS_FILE,
    MODEL_FOLDER,
    RESULT_FOLDERS,
)
from seqpack.train.context import share_rows
from seqpack.train.flops import ModelFlops, peak_flops
from seqpack.train.loop import Progress, Saving, Trainer, train
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.megatron_export import export, megatron_options
from seqpack.train.metrics import JsonlSink, read_metrics
from seqpack.train.optim import Optimizer, learning_rate
from seqpack.train.pipeline import PipelineLM, whole_state
from seqpack.train.plan import TrainPlan
from seqpack.train.read_ahead import ReadAhead, upcoming_rows
from seqpack.train.run_state import RunState, quiet
from seqpack.train.sharding import full_state, layers_of, weight_dtype
from seqpack.train.summary import TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.hooks.specs import MetricSink
    from seqpack.train.loop import ReadBatch


def execute(plan: TrainPlan, sinks: Sequence[MetricSink] = (), *, checkpoints: bool = True) -> TrainResult:
    """Build the model, train it, save it. Every step goes to ``metrics.jsonl`` and to ``sinks``, which stay open.

    Called by every rank of ``plan.ranks``, inside their process group. Raises ``RunStopped`` after Ctrl-C or SIGTERM,
    with a checkpoint on disk; without ``checkpoints`` there is none, and signals do what they do elsewhere.
    """
    ranks, save = plan.ranks, plan.run.save
    if plan.run.save_format == "native" and not checkpoints:
        raise ConfigError(
            "SP208",
            "--save-format native: without a disk that all machines share, there are no checkpoints",
            help="leave --save-format out, or give a --save that all machines reach",
        )
    check_agreement(ranks, {**_identity(plan), **_facts(plan)})
    ranks.wait()  # all have looked at --save before the first one changes it
    share = plan.parallel.row_share(ranks.rank)
    rows = ReadAhead(plan.reader(), upcoming_rows(plan.schedule, plan.first_step, share))
    trainer = make_trainer(plan, rows=rows)
    model = trainer.model
    state = RunState(save, ranks, _identity(plan), plan.run.keep_last or None, background=plan.run.async_save)
    if plan.saved is not None:
        state.load(plan.saved, trainer.optimizer.tensors())
        trainer.optimizer.loaded()
    elif ranks.first:
        remove_run(save)
    progress = Progress(plan.first_step, read_metrics(save / METRICS_FILE, plan.first_step))
    ranks.wait()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(watched(ranks))
        stack.callback(state.close)
        if ranks.first:
            sinks = [stack.enter_context(closing(JsonlSink(save / METRICS_FILE, keep=plan.first_step))), *sinks]
        stack.enter_context(rows)
        saving = None
        if checkpoints:
            saving = Saving(
                lambda step: state.save(step, trainer.optimizer.tensors()), state.finish, plan.save_interval
            )
        result = train(trainer, sinks=sinks, saving=saving, evaluation=plan.evaluation, progress=progress)
    _export(plan, model)
    return replace(result, model_path=str(save / plan.result_folder))


def make_trainer(plan: TrainPlan, observe: Observe = as_it_is, rows: ReadBatch | None = None) -> Trainer:
    """The model of a run on its devices, and what it trains with; every rank calls it.

    ``observe`` may put something around the loss, ``rows`` reads them from the data set.
    """
    mesh = plan.parallel.mesh(plan.backend.device.type) if plan.ranks.size > 1 else None
    model = _model(plan, mesh, observe)
    return Trainer(
        model,
        plan.schedule,
        _reader(plan, mesh, rows or plan.reader()),
        _optimizer(model, plan.training),
        _rate(plan),
        plan.backend,
        plan.ranks,
        plan.parallel.row_share(plan.ranks.rank),
        seed=plan.data.seed,
        describe=plan.dataset.describe,
        flops=ModelFlops.of(plan.model.config, adapters=_adapter_size(plan, model)).of_batch,
        peak_flops=(peak_flops(plan.backend.name) or 0.0) * plan.ranks.size,
    )


def _model(plan: TrainPlan, mesh: DeviceMesh | None, observe: Observe) -> PackedLM | PipelineLM:
    dtype: torch.dtype = getattr(torch, plan.dtype)
    hf_model = empty_model(plan.model, weight_dtype(dtype, sharded=mesh is not None))
    if plan.lora is not None:
        add_lora(hf_model, plan.lora)
    recompute(hf_model, plan.training.recompute_granularity)
    if mesh is None:
        loss = observe(chunked_cross_entropy)
        model: PackedLM | PipelineLM = PackedLM(hf_model, plan.attention.load(), loss)
    else:
        attention, layout, batches = plan.attention.load(), plan.parallel, plan.num_micro_batches
        model = assemble(hf_model, attention, layout, plan.cut, batches, mesh, dtype, observe)
    if isinstance(model, PipelineLM) and plan.context is not None and mesh is not None:
        model.share = share_rows(plan.context, mesh, plan.attention, plan.backend)
    if plan.training.compile:
        compile_layers(layers_of(model))
    parts = [(stage, stage.model) for stage in model.stages] if isinstance(model, PipelineLM) else [(model, hf_model)]
    for root, part in parts:
        materialize(root, part, plan.model, device=plan.backend.device, dtype=dtype, seed=plan.data.seed)
    return model


def _adapter_size(plan: TrainPlan, model: PackedLM | PipelineLM) -> int:
    """Weights that LoRA added; 0 without it."""
    return 0 if plan.lora is None else sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _export(plan: TrainPlan, model: PackedLM | PipelineLM) -> None:
    """Write the model as ``--save-format`` says: rank 0 does, with the pieces of all."""
    if plan.run.save_format == "native":  # the last checkpoint is what is left
        return
    if plan.run.save_format == "mcore":
        folder = plan.run.save / MODEL_FOLDER
        _export_model(plan, model, folder)
        if plan.ranks.first:
            export(folder, plan.run.save / plan.result_folder, megatron_options(plan.parallel, plan.cut))
            shutil.rmtree(folder)
        plan.ranks.wait()
        return
    folder = plan.run.save / plan.result_folder
    if plan.lora is not None:
        _export_adapter(plan, plan.lora, model.model, folder)
        return
    _export_model(plan, model, folder)


def _export_model(plan: TrainPlan, model: PackedLM | PipelineLM, folder: Path) -> None:
    """A Hugging Face directory, written by rank 0."""
    if plan.ranks.size == 1:
        save_hf(model.model, folder, plan.tokenizer_dir)
        return
    dtype: torch.dtype = getattr(torch, plan.dtype)
    if isinstance(model, PipelineLM):
        weights = whole_state(model, dtype, keep=plan.ranks.first)
        hf_model = empty_model(plan.model, dtype)
    else:
        hf_model = model.model
        weights = full_state(hf_model, dtype, keep=plan.ranks.first)
    if plan.ranks.first:
        save_hf(hf_model, folder, plan.tokenizer_dir, weights=weights)
    plan.ranks.wait()


def _export_adapter(plan: TrainPlan, lora: LoraSettings, model: Any, folder: Path) -> None:
    names = adapter_weights(name for name, _ in model.named_parameters())
    weights = full_state(model, getattr(torch, plan.dtype), keep=plan.ranks.first, names=names)
    if plan.ranks.first:
        targets = sorted({name.split(".")[-2] for name in names})
        save_adapter(weights, lora, targets, plan.model.name, folder)
    plan.ranks.wait()


def remove_run(save: Path) -> None:
    """Nothing of an older run may lie beside this one, should this one fail."""
    for folder in RESULT_FOLDERS:
        shutil.rmtree(save / folder, ignore_errors=True)
    for checkpoint in save.glob("step-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _identity(plan: TrainPlan) -> dict[str, Any]:
    """What must be the same when the run goes on, by the name an error gives it."""
    config = plan.model.config.to_dict()
    for name in ("transformers_version", "_name_or_path", "dtype", "architectures"):
        config.pop(name, None)
    text = json.dumps(config, sort_keys=True, default=str)
    return {
        "data set (digest of its files)": plan.dataset.digest(),
        "model (digest of its configuration)": hashlib.sha256(text.encode()).hexdigest(),
        "--global-batch-size": plan.training.step_rows,
        "--seed": plan.data.seed,
        "--shuffle": plan.data.shuffle,
        "--loss-reduction": plan.training.loss_reduction,
        "--dtype": plan.dtype,
        "LoRA": None if plan.lora is None else asdict(plan.lora),
        "files of --model": _weight_files(plan) if plan.lora is not None else None,
    }


def _facts(plan: TrainPlan) -> dict[str, Any]:
    """What else must be the same on all ranks of a run, by the name an error gives it."""
    return {
        "layout": str(plan.parallel),
        "cut into stages": str(plan.cut),
        "attention": plan.attention.name,
        "context parallelism": None if plan.context is None else asdict(plan.context.settings),
        "set of training options": asdict(plan.training),
        "way to pad, to evaluate or to save": [
            plan.data.pad_to,
            plan.run.eval_interval,
            plan.run.eval_iters,
            plan.run.save_interval,
            plan.run.async_save,
        ],
        "checkpoint to go on from": None if plan.saved is None else plan.saved.step,
        "version of seqpack": seqpack.__version__,
        "version of torch": torch.__version__,
    }


def _weight_files(plan: TrainPlan) -> dict[str, int]:
    """Sizes of the frozen weights: a checkpoint of a LoRA run does not hold them."""
    folder = plan.model.directory
    return {} if folder is None else {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def _reader(plan: TrainPlan, mesh: DeviceMesh | None, rows: ReadBatch) -> ReadBatch:
    """Rows -> the batch that this rank computes. Ranks that share rows compare them, which no thread may do."""
    if plan.context is None or mesh is None or plan.cut is not None:
        return rows
    share = share_rows(plan.context, mesh, plan.attention, plan.backend)
    return lambda numbers: share(rows(numbers))


def _optimizer(model: PackedLM | PipelineLM, training: TrainOptions) -> Optimizer:
    return Optimizer(
        model.named_parameters(),
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_eps,
        weight_decay=training.weight_decay,
        clip_grad=training.clip_grad,
        copies=model.copies if isinstance(model, PipelineLM) else (),
    )


def _rate(plan: TrainPlan) -> Callable[[int], float]:
    num_steps = len(plan.schedule)
    return partial(
        learning_rate,
        num_steps=num_steps,
        peak=plan.peak_lr,
        minimum=plan.training.min_lr,
        warmup_steps=plan.training.warmup_steps(num_steps),
        style=plan.training.lr_decay_style,
        wsd_decay_steps=plan.training.wsd_decay_steps(num_steps),
    )
