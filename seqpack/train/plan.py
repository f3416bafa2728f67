"""A training run from its options, checked as a whole; no weight exists yet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from seqpack.attention.contract import AttentionBackend
from seqpack.models.kernels import ChosenKernels
from seqpack.models.load import ModelSpec
from seqpack.models.lora import LoraSettings
from seqpack.models.stages import PipelineCut
from seqpack.options.train import (
    RunOptions,
    TrainDataOptions,
    TrainOptions,
)
from seqpack.runtime.device import DeviceBackend
from seqpack.runtime.parallel import ParallelPlan
from seqpack.runtime.ranks import Ranks
from seqpack.train.checks import (
    ADAPTER_FOLDER,
    MEGATRON_FOLDER,
    MODEL_FOLDER,
    Isolation,
)
from seqpack.train.context import prices
from seqpack.train.data import TrainData
from seqpack.train.estimate import Workload, estimate_layout
from seqpack.train.loader import BatchReader, RowSchedule
from seqpack.train.loop import Evaluation
from seqpack.train.run_state import SavedStep
from seqpack.train.summary import ContextPrice, LayoutEstimate, RunSummary

if TYPE_CHECKING:
    from pathlib import Path

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
    kernels: ChosenKernels = ChosenKernels()  # noqa: RUF009 - frozen
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
        notes = [self.isolation.note, *self.dataset.notes, *self.kernels.notes]
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
