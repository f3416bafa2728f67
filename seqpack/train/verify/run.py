"""``seqpack verify`` on a model: does training with this data, model, device and layout keep samples apart?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqpack.core.check_result import CheckResult
from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.models.load import ModelSpec
from seqpack.models.self_check import tiny_model
from seqpack.runtime.quiet import quiet_transformers
from seqpack.train.run import make_trainer
from seqpack.train.verify import checks
from seqpack.train.verify.expected import Expected, Unit
from seqpack.train.verify.probe import AttentionObserver, HeadObserver, Probe, StagedData
from seqpack.train.verify.reference import Reference
from seqpack.train.verify.result import VerifyReport, over_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.core.progress import Progress
    from seqpack.options.verify import VerifyOptions
    from seqpack.train.data import TrainData
    from seqpack.train.plan import TrainPlan

MAX_TINY_PARAMETERS = 500_000_000


def verify_model(plan: TrainPlan, options: VerifyOptions, progress: Progress) -> VerifyReport:
    """Run every check on every rank of ``plan``, inside their process group.

    Raises ConfigError SP212 if there is no model to check: random weights with ``--full-size``, or a family of which
    no small copy can be built.
    """
    with checked_model(plan, full_size=options.full_size) as spec, progress("check", unit="checks") as advance:
        first_epoch = replace(plan.dataset, num_epochs=1)
        plan = replace(
            plan,
            model=spec,
            lora=None,
            data=replace(plan.data, pad_to="none"),
            dataset=first_epoch,
            training=replace(plan.training, global_batch_size=_step_size(plan, options.rows)),
        )
        results = []
        for result in _checks(plan, options):
            results.append(result)
            advance(1)
        gathered = plan.ranks.gather(results)
    return VerifyReport(_what_it_ran_on(plan, options), over_ranks(gathered), _notes(plan, options))


@contextmanager
def checked_model(plan: TrainPlan, *, full_size: bool) -> Iterator[ModelSpec]:
    """The model itself, or a small copy with random weights in a directory of this rank, for as long as it is needed.

    All ranks draw the same weights. The router loss is left out: it belongs to a micro-batch, not to its samples.
    """
    spec = plan.model
    if full_size:
        if spec.directory is None or spec.random_weights:
            raise ConfigError(
                "SP212",
                f"--full-size: {spec.name} has no weights, and random ones are the same in a small copy",
                help="leave --full-size out",
            )
        if spec.checkpoint is not None:
            raise ConfigError(
                "SP212",
                f"--full-size: {spec.name} is a Megatron checkpoint, which transformers cannot load to compare with",
                help=f"seqpack convert {spec.name} --to hf -o DIRECTORY, and verify that; or leave --full-size out",
            )
        spec.config.output_router_logits = False
        yield spec
        return
    parallel = plan.parallel
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.data.seed)
            model = tiny_model(
                spec.config,
                max_parameters=MAX_TINY_PARAMETERS,
                vocab_size=spec.vocab_size,
                keep_layers=parallel.pp > 1,
                keep_heads=parallel.tp * parallel.cp > 1,
            )
    except Exception as error:  # whatever a family's own code raises
        raise ConfigError(
            "SP212",
            f"no small copy of {spec.name} can be built: {type(error).__name__}: {error}",
            help="--full-size checks the model itself",
        ) from error
    with tempfile.TemporaryDirectory(prefix="seqpack-verify-") as folder:
        model.config.output_router_logits = False
        # Every rank has a directory of its own, as disks may not be shared; transformers writes on the first rank only.
        model.should_save_on_this_rank = lambda is_main_process: True
        with quiet_transformers():
            model.to(torch.float32).save_pretrained(folder)
        yield ModelSpec(f"a small copy of {spec.name}", model.config, Path(folder), random_weights=False)


def chosen_rows(dataset: TrainData, num_rows: int) -> NDArray[np.int64]:
    """Rows to look at: the one with most samples, the one with most padding, and others from first to last."""
    trained = np.flatnonzero(dataset.num_targets > 0)
    if not len(trained):
        raise ConfigError("SP205", "no row has a token to train on", help="look at them with seqpack show")
    samples = np.concatenate([part.num_samples for part in dataset.sets])[trained]
    padding = (dataset.row_lengths - dataset.num_tokens)[trained]
    fullest = int(samples.argmax())
    padding[fullest] = -1  # another row shows more
    special = [int(trained[fullest]), int(trained[padding.argmax()])]
    spread = trained[np.linspace(0, len(trained) - 1, num_rows).round().astype(int)].tolist()
    return np.array(list(dict.fromkeys([*special, *spread]))[:num_rows])


def _checks(plan: TrainPlan, options: VerifyOptions) -> Iterator[CheckResult]:
    dtype: torch.dtype = getattr(torch, plan.dtype)
    rows = chosen_rows(plan.dataset, options.rows)
    micro_batches = [
        Expected.of(part.tolist(), [plan.dataset[int(row)] for row in part], plan.isolation.mask)
        for part in _split(rows, plan.training.micro_batch_size)
    ]
    describe = _Names(plan.dataset).of
    attention = AttentionObserver(plan.attention.load())
    staged = StagedData.of(plan.dataset)
    observed = replace(plan, attention=replace(plan.attention, load=lambda: attention), dataset=staged)
    heads = HeadObserver()
    trainer = make_trainer(observed, heads.around)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # what is random cannot be compared
    probe = Probe(trainer, observed.reader(), staged, plan.model.vocab_size, heads, attention)
    same = checks.check_same_data(plan.ranks, micro_batches)
    yield same
    if "failed" in plan.ranks.gather(same.outcome):  # ranks that do not compute the same cannot be compared
        return
    yield checks.check_boundaries(probe, micro_batches, whole_rows=plan.parallel.cp == 1, padded=plan.parallel.pp > 1)
    yield checks.check_positions(probe, micro_batches)
    yield checks.check_labels(probe, micro_batches)
    yield checks.check_padding(probe, micro_batches)
    yield checks.check_isolation(
        probe, micro_batches, describe, most=options.samples, exact=not _has_experts(plan.model.config)
    )
    reference = Reference.load(plan.model, dtype, plan.backend)
    yield checks.check_hidden(probe, reference, micro_batches, describe, dtype)
    yield from checks.check_gradients(probe, reference, micro_batches, dtype)


class _Names:
    """Samples and packs as a person finds them again."""

    def __init__(self, dataset: TrainData) -> None:
        self._dataset = dataset

    def of(self, expected: Expected, unit: Unit) -> str:
        row = expected.numbers[unit.row]
        if unit.is_padding:
            return f"the padding of row {row}"
        if len(unit.samples) > 1:
            return f"row {row}"
        return f"sample {unit.samples[0]} of row {row} ({self._dataset.key(row, unit.samples[0])})"


def _step_size(plan: TrainPlan, num_rows: int) -> int:
    """Rows of one step that takes all that are looked at: pipelines are built for so many micro-batches."""
    size = plan.training.micro_batch_size * plan.parallel.dp
    return -(-num_rows // size) * size


def _split(rows: NDArray[np.int64], size: int) -> Sequence[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _has_experts(config: object) -> bool:
    return any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def _what_it_ran_on(plan: TrainPlan, options: VerifyOptions) -> dict[str, str]:
    return {
        "data": " ".join(plan.data.data_path),
        "model": plan.model.name,
        "runs on": f"{plan.backend.name}, {plan.attention.name} attention, {plan.dtype}, {plan.parallel}",
        "rows": f"{min(options.rows, len(plan.dataset)):,} of {len(plan.dataset):,}, "
        f"{plan.training.micro_batch_size} at once",
    }


def _notes(plan: TrainPlan, options: VerifyOptions) -> tuple[str, ...]:
    notes = [plan.isolation.note]
    if plan.isolation.mask is MaskMode.CAUSAL and plan.dataset.manifest.packed:
        notes.append("so no sample is kept from those before it in its pack; whole packs are what is compared")
    if not options.full_size:
        notes.append("the copy has random weights and the model's kinds of layers; --full-size takes the model itself")
    if plan.dtype in ("bfloat16", "float16"):
        notes.append(f"{plan.dtype} hides small differences: --dtype float64 shows more where the attention has it")
    return tuple(notes)
