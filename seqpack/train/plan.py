"""A training run from its options, checked as a whole; no weight exists yet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from seqpack.attention.contract import AttentionBackend, AttentionNeeds, select_attention
from seqpack.attention.cpu import cpu_flash_attention
from seqpack.attention.registry import BUILTIN_BACKENDS
from seqpack.core.errors import ConfigError
from seqpack.models.compiling import check_compiler
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
    ADAPTER_FOLDER,
    MEGATRON_FOLDER,
    MODEL_FOLDER,
    Isolation,
    check_output,
    resolve_isolation,
    resolve_row_length,
    resolve_tokenizer,
)
from seqpack.train.context import attention_name, context_settings, make_planner, needs_parts, prices
from seqpack.train.data import TrainData, open_data
from seqpack.train.estimate import Workload, estimate_layout, outline_of
from seqpack.train.flops import ModelFlops
from seqpack.train.layout import cut_model, refuse_idle_flags
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import Evaluation
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.megatron_export import check_export, megatron_options
from seqpack.train.pipeline import check_micro_batches
from seqpack.train.run_state import SavedStep, newest
from seqpack.train.summary import ContextPrice, LayoutEstimate, RunSummary

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seqpack.cp.algorithms import Planner

DTYPE_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
PRICED_BATCHES = 32
"""Micro-batches that ``--dry-run`` prices."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A run whose every part is known to fit; no weight exists yet."""

    data: TrainDataOptions
    training: TrainOptions
    run: RunOptions
    dataset: TrainData
    schedule: RowSchedule
    evaluation: Evaluation | None
    isolation: Isolation
    row_length: int | None
    model: ModelSpec
    dtype: str
    tokenizer_dir: Path | None
    backend: DeviceBackend
    attention: AttentionBackend
    saved: SavedStep | None
    ranks: Ranks
    parallel: ParallelPlan
    cut: PipelineCut | None
    lora: LoraSettings | None
    context: Planner | None = None

    @property
    def result_folder(self) -> str:
        """Name of what the run writes in the end."""
        if self.run.save_format == "native":
            return f"step-{len(self.schedule)}"
        if self.run.save_format == "mcore":
            return MEGATRON_FOLDER
        return MODEL_FOLDER if self.lora is None else ADAPTER_FOLDER

    @property
    def save_interval(self) -> int | None:
        """Steps between two checkpoints; there is one after the last step as well."""
        interval = self.run.save_interval
        return len(self.schedule) if interval is None and self.run.save_format == "native" else interval

    @property
    def num_micro_batches(self) -> int:
        """Of a full step, on each data parallel rank."""
        return -(-self.training.step_rows // self.training.micro_batch_size // self.parallel.dp)

    @property
    def estimate(self) -> LayoutEstimate:
        """What the layout asks of a process, for micro-batches of the longest rows."""
        tokens = self.training.micro_batch_size * (self.row_length or int(self.dataset.row_lengths.max(initial=1)))
        recompute = self.training.recompute_granularity
        work = Workload(self.num_micro_batches, tokens, DTYPE_BYTES[self.dtype], recompute)
        return estimate_layout(self.model.config, self.parallel, self.cut, work)

    @property
    def peak_lr(self) -> float:
        return self.training.peak_lr(random_weights=self.model.random_weights)

    @property
    def first_step(self) -> int:
        """Steps that are done already."""
        return self.saved.step if self.saved else 0

    def reader(self) -> BatchReader:
        """Rows of a micro-batch -> the whole of it."""
        return BatchReader(
            self.dataset,
            self.isolation.mask,
            self.data.pad_to,
            self.row_length,
            self.dataset.manifest.tokenizer.pad_token_id,
            self.training.loss_reduction,
        )

    def context_prices(self) -> list[ContextPrice]:
        """What each algorithm of context parallelism would cost for the first rows; empty without it."""
        if self.context is None:
            return []
        first = (rows for step in self.schedule for rows in step.micro_batches)
        return prices(self.context, map(self.reader(), islice(first, PRICED_BATCHES)))

    def summary(self) -> RunSummary:
        """What will run, to be shown before it does."""
        counts = self.schedule.row_counts()
        num_tokens, num_targets = int(counts @ self.dataset.num_tokens), int(counts @ self.dataset.num_targets)
        return RunSummary(
            data=" ".join(self.data.data_path),
            num_rows=len(self.dataset),
            num_steps=len(self.schedule),
            epochs=self.schedule.epochs,
            global_batch_size=self.training.step_rows,
            micro_batch_size=self.training.micro_batch_size,
            num_tokens=num_tokens,
            num_targets=num_targets,
            packed=self.dataset.manifest.packed,
            mask=self.isolation.mask.value,
            model=self.model.name,
            model_type=self.model.config.model_type,
            num_parameters=self.model.num_parameters(),
            random_weights=self.model.random_weights,
            dtype=self.dtype,
            device=self.backend.name,
            attention=self.attention.name,
            parallel=str(self.parallel),
            lr=self.peak_lr,
            lr_decay_style=self.training.lr_decay_style,
            warmup_steps=self.training.warmup_steps(len(self.schedule)),
            save=str(self.run.save),
            first_step=self.first_step,
            state_bytes=self._state_bytes(),
            notes=self._notes(),
        )

    def _state_bytes(self) -> int:
        """Weight, gradient and two moments of AdamW, in float32 at least; each rank of dp_shard x cp has a part.

        One process keeps bfloat16 weights beside their masters. With LoRA, what is trained is too little to count.
        """
        if self.ranks.size > 1 and self.lora is None:
            return self.estimate.state_bytes
        width, shards = DTYPE_BYTES[self.dtype], self.parallel.dp_shard * self.parallel.cp
        wide = max(width, DTYPE_BYTES["float32"])
        kept = wide if shards > 1 else width
        full = 4 * wide + (width if shards == 1 and width < wide else 0)
        return self.model.num_parameters() * (kept if self.lora else full) // shards

    def _notes(self) -> tuple[str, ...]:
        notes = [self.isolation.note, *self.dataset.notes]
        if self.run.resume is not None:
            notes.append(f"goes on from {self.saved.path}" if self.saved else "no checkpoint yet: from the first step")
        if not self.model.tested:
            family = self.model.config.model_type
            notes.append(f"family {family} is not among those tested; a tiny copy gave the same packed as one by one")
        if getattr(self.model.config, "output_router_logits", False):
            notes.append(f"router loss: {self.model.config.router_aux_loss_coef:g} of it is part of the loss")
        if self.training.compile:
            notes.append("layers are compiled in the first step")
        if self.attention.on_request:
            notes.append(f"attention {self.attention.name} builds the whole mask: exact, and much slower than causal")
        if self.lora is not None:
            targets = ", ".join(self.lora.targets)
            notes.append(f"LoRA of rank {self.lora.rank}, alpha {self.lora.alpha:g}, beside {targets}")
        if self.evaluation is not None:
            rows = sum(len(rows) for step in self.evaluation.schedule for rows in step.micro_batches)
            notes.append(f"evaluated on {rows:,} held-out rows every {self.evaluation.interval:,} steps")
        if self.schedule.num_left_out:
            notes.append(f"rows without a trained token, left out: {self.schedule.num_left_out:,}")
        if self.tokenizer_dir is None:
            notes.append("no tokenizer is saved with the model: that of the data is gone; --tokenizer names one")
        return tuple(notes)


def prepare(
    data: TrainDataOptions,
    model: ModelOptions,
    training: TrainOptions,
    run: RunOptions,
    parallel: ParallelOptions | None = None,
    lora: LoraOptions | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    context: ContextOptions = ContextOptions(),  # noqa: B008 - frozen
) -> TrainPlan:
    """Check the options against each other, the data set, the model directory and this machine.

    Raises ``ConfigError``, ``DataError`` or ``DeviceError`` for the first thing that does not fit.
    """
    parallel_plan = _parallel(parallel or ParallelOptions(), ranks)
    if run.resume is None:  # one that goes on in another layout keeps the flags of the one it had
        refuse_idle_flags(parallel_plan, parallel or ParallelOptions(), context)
    check_output(run.save, overwrite=run.overwrite or run.resume is not None)
    dataset = open_data(data, end_token_id=_end_token(model, data))
    manifest = dataset.manifest
    isolation = resolve_isolation(manifest, data)
    longest_row = int(dataset.row_lengths.max(initial=0))
    row_length = resolve_row_length(manifest, data, longest_row, all_packed=dataset.all_packed)
    backend = select_device(run.device, num_threads=run.num_threads, index=ranks.local)
    spec = resolve_model(
        model.model,
        random_init=model.random_init,
        config_dir=model.tokenizer,
        vocab_size=manifest.tokenizer.vocab_size,
        eos_token_id=manifest.tokenizer.eos_token_id,
        pad_token_id=manifest.tokenizer.pad_token_id,
    )
    if spec.checkpoint is not None and lora is not None and lora.lora_r is not None:
        raise ConfigError(
            "SP208",
            f"--lora-r: adapters name the model they belong to, and {spec.name} is a Megatron checkpoint",
            help=f"seqpack convert {spec.name} --to hf -o DIRECTORY, and train with --model DIRECTORY",
        )
    training = training.with_step_rows(dataset.mean_tokens())
    if training.compile:
        shared = parallel_plan.dp < parallel_plan.world_size
        check_compiler(backend.device.type, spec.config, shared_layers=shared)
    cut = cut_model(spec.config, parallel_plan, parallel or ParallelOptions(), training, lora or LoraOptions())
    if run.save_format == "mcore":
        if lora is not None and lora.lora_r is not None:
            raise ConfigError(
                "SP208",
                "--save-format mcore: adapters have no place in a Megatron checkpoint",
                help="leave --save-format out: adapters are saved for peft, which can merge them",
            )
        check_export(spec.config, megatron_options(parallel_plan, cut))
    if not spec.tested:
        self_check(spec.config, cpu_flash_attention, chunked_cross_entropy)
    if data.repack_epochs:
        dataset = dataset.repacked(_schedule(dataset, data, training, None).num_epochs)
    settings = context_settings(context, parallel_plan)
    attention = _attention(
        attention_name(context, run.attention), spec, backend, model.dtype, isolation, parts=needs_parts(settings)
    )
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
        lora=_lora(lora or LoraOptions(), spec),
        context=make_planner(settings, context, spec, parallel_plan, backend, attention, DTYPE_BYTES[model.dtype])
        if settings is not None
        else None,
    )
    if cut is not None:
        check_micro_batches(cut, plan.num_micro_batches)
    return plan


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


def _parallel(options: ParallelOptions, ranks: Ranks) -> ParallelPlan:
    return ParallelPlan.of(
        ranks.size,
        dp_replicate=options.dp_replicate,
        cp=options.context_parallel_size,
        tp=options.tensor_model_parallel_size,
        pp=options.pipeline_model_parallel_size,
        ep=options.expert_model_parallel_size,
    )


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
