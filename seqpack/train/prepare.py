"""From the options of a run to its plan: each is checked against the others, the data, the model and the machine."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch

from seqpack.attention.contract import AttentionBackend, AttentionNeeds, select_attention
from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.reference import reference_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.errors import ConfigError
from seqpack.models.compiling import check_compiler
from seqpack.models.kernels import ChosenKernels, choose_kernels
from seqpack.models.load import ModelSpec, resolve_model
from seqpack.models.lora import LoraSettings, find_targets
from seqpack.models.self_check import self_check
from seqpack.models.stages import PipelineCut
from seqpack.options.context import ContextOptions
from seqpack.options.train import (
    DEFAULT_EPOCHS,
    LoraOptions,
    ModelOptions,
    ParallelOptions,
    RunOptions,
    TrainDataOptions,
    TrainOptions,
)
from seqpack.runtime.device import DeviceBackend, select_device
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.text.tokenizer import Tokenizer
from seqpack.train.checks import (
    Isolation,
    check_output,
    resolve_isolation,
    resolve_row_length,
    resolve_tokenizer,
)
from seqpack.train.context import attention_name, context_settings, make_planner, needs_parts
from seqpack.train.data import TrainData, open_data
from seqpack.train.estimate import outline_of
from seqpack.train.flops import ModelFlops
from seqpack.train.layout import cut_model, refuse_idle_flags
from seqpack.train.loader import RowSchedule
from seqpack.train.loop import Evaluation
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.megatron_export import check_export, megatron_options
from seqpack.train.pipeline import check_micro_batches
from seqpack.train.plan import DTYPE_BYTES, TrainPlan
from seqpack.train.run_state import newest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.io.manifest import TokenizerRecord


def prepare(
    data: TrainDataOptions,
    model: ModelOptions,
    training: TrainOptions,
    run: RunOptions,
    parallel: ParallelOptions = ParallelOptions(),  # noqa: B008 - frozen, as the next three
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    ranks: Ranks = Ranks(),  # noqa: B008
    context: ContextOptions = ContextOptions(),  # noqa: B008
) -> TrainPlan:
    """Check the options against each other, the data set, the model directory and this machine.

    Raises ``ConfigError``, ``DataError`` or ``DeviceError`` for the first thing that does not fit.
    """
    parallel_plan = ParallelPlan.from_options(parallel, ranks.size)
    if run.resume is None:  # one that goes on in another layout keeps the flags of the one it had
        refuse_idle_flags(parallel_plan, parallel, context)
    check_output(run.save, overwrite=run.overwrite or run.resume is not None)
    dataset = open_data(data, end_token_id=_end_token(model, data))
    manifest = dataset.manifest
    isolation = resolve_isolation(manifest, data)
    row_length = resolve_row_length(
        manifest, data, int(dataset.row_lengths.max(initial=0)), all_packed=dataset.all_packed
    )
    backend = select_device(run.device, num_threads=run.num_threads, index=ranks.local)
    spec = _model(model, manifest.tokenizer)
    _check_adapters(lora, spec, run)
    training = training.with_step_rows(dataset.mean_tokens())
    if training.compile:
        shared = parallel_plan.dp < parallel_plan.world_size
        check_compiler(backend.device.type, spec.config, shared_layers=shared)
    cut = cut_model(spec.config, parallel_plan, parallel, training, lora)
    if run.save_format == "mcore":
        check_export(spec.config, megatron_options(parallel_plan, cut))
    if not spec.tested:
        self_check(spec.config, cpu_flash_attention, chunked_cross_entropy)
    kernels = _kernels(training.kernels, spec, backend, model.dtype, cut)
    if data.repack_epochs:
        dataset = dataset.repacked(_schedule(dataset, data, training, None).num_epochs)
    settings = context_settings(context, parallel_plan)
    attention = _attention(
        attention_name(context, run.attention), spec, backend, model.dtype, isolation, parts=needs_parts(settings)
    )
    planner = None
    if settings is not None:
        width = DTYPE_BYTES[model.dtype]
        planner = make_planner(settings, context, spec, parallel_plan, backend, attention, width)
    costs = dataset.costs(ModelFlops.of(spec.config)) if ranks.size > 1 else None
    tokenizer_dir = resolve_tokenizer(
        manifest.tokenizer, model.tokenizer, spec.directory, random_weights=spec.random_weights
    )
    plan = TrainPlan(
        data=data,
        training=training,
        run=run,
        dataset=dataset,
        schedule=_schedule(dataset, data, training, costs),
        evaluation=_evaluation(dataset, training, run),
        isolation=isolation,
        row_length=row_length,
        model=spec,
        dtype=model.dtype,
        tokenizer_dir=tokenizer_dir,
        backend=backend,
        attention=attention,
        saved=newest(run.save) if run.resume else None,
        ranks=ranks,
        parallel=parallel_plan,
        cut=cut,
        lora=_lora(lora, spec),
        kernels=kernels,
        context=planner,
    )
    if cut is not None:
        check_micro_batches(cut, plan.num_micro_batches)
    return plan


def _model(options: ModelOptions, tokenizer: TokenizerRecord) -> ModelSpec:
    return resolve_model(
        options.model,
        random_init=options.random_init,
        config_dir=options.tokenizer,
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _check_adapters(lora: LoraOptions, spec: ModelSpec, run: RunOptions) -> None:
    """SP208 for adapters where the base model, or what is saved, has no place for them."""
    if lora.lora_r is None:
        return
    if spec.checkpoint is not None:
        raise ConfigError(
            "SP208",
            f"--lora-r: adapters name the model they belong to, and {spec.name} is a Megatron checkpoint",
            help=f"seqpack convert {spec.name} --to hf -o DIRECTORY, and train with --model DIRECTORY",
        )
    if run.save_format == "mcore":
        raise ConfigError(
            "SP208",
            "--save-format mcore: adapters have no place in a Megatron checkpoint",
            help="leave --save-format out: adapters are saved for peft, which can merge them",
        )


def _kernels(name: str, spec: ModelSpec, backend: DeviceBackend, dtype: str, cut: PipelineCut | None) -> ChosenKernels:
    return choose_kernels(
        name,
        spec.config,
        backend.device,
        getattr(torch, dtype),
        cpu_flash_attention if backend.device.type == "cpu" else reference_attention,
        chunked_cross_entropy,
        split_backward=cut is not None and cut.zero_bubble,
    )


def _attention(
    name: str, spec: ModelSpec, backend: DeviceBackend, dtype: str, isolation: Isolation, *, parts: bool
) -> AttentionBackend:
    needs = AttentionNeeds(
        backend.device.type,
        dtype,
        isolation.mask,
        head_size=spec.head_size,
        window=spec.has_window,
        grouped=spec.grouped_heads,
        partial=parts,
    )
    return select_attention(name, BUILTIN_BACKENDS, needs)


def _lora(options: LoraOptions, spec: ModelSpec) -> LoraSettings | None:
    """The settings with the matrices that get an adapter, all of which the model has."""
    if options.lora_r is None:
        return None
    alpha = 2.0 * options.lora_r if options.lora_alpha is None else options.lora_alpha
    targets = find_targets(outline_of(spec.config), options.lora_target_modules)
    return LoraSettings(options.lora_r, alpha, options.lora_dropout, targets)


def _end_token(model: ModelOptions, data: TrainDataOptions) -> int | None:
    """The end token of ``--tokenizer``, for text whose index does not say where documents end."""
    if model.tokenizer is None or not (data.reset_attention_mask or data.reset_position_ids or data.neat_pack):
        return None
    return Tokenizer(model.tokenizer).eos_token_id


def _schedule(
    dataset: TrainData, data: TrainDataOptions, training: TrainOptions, costs: NDArray[np.float64] | None
) -> RowSchedule:
    epochs = training.epochs
    if training.train_iters is None and training.train_samples is None and epochs is None:
        epochs = DEFAULT_EPOCHS
    return RowSchedule(
        dataset.num_targets,
        global_batch_size=training.step_rows,
        micro_batch_size=training.micro_batch_size,
        seed=data.seed,
        shuffle=data.shuffle,
        train_iters=training.train_iters,
        train_samples=training.train_samples,
        epochs=epochs,
        pools=dataset.pools(),
        weights=dataset.weights,
        padded=data.padded_samples,
        costs=costs,
        epoch_shift=dataset.epoch_shift,
        loss_units=dataset.loss_units(training.loss_reduction),
    )


def _evaluation(dataset: TrainData, training: TrainOptions, run: RunOptions) -> Evaluation | None:
    """The validation part of the split; SP208 where there is none, or nobody looks at it."""
    pools = [rows for rows in dataset.pools(1) if len(rows)]
    if run.eval_iters == 0:
        return None
    if run.eval_interval is None:
        if run.eval_iters is not None:
            raise ConfigError("SP208", "--eval-iters needs --eval-interval", help="say how often: --eval-interval 100")
        return None
    if not pools:
        raise ConfigError(
            "SP208", "--eval-interval needs rows that are not trained on", help="keep some back: --split 98,2,0"
        )
    schedule = RowSchedule(
        dataset.num_targets,
        global_batch_size=training.step_rows,
        micro_batch_size=training.micro_batch_size,
        seed=0,
        shuffle=False,
        epochs=1,
        loss_units=dataset.loss_units(training.loss_reduction),
        pools=pools,
    )
    return Evaluation(list(islice(schedule, run.eval_iters)), run.eval_interval)
