"""Context parallelism of a run: from its options to plans, to the batches ranks share, and to what each would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.cp.algorithms import NEED_PARTS, ContextSettings, Planner
from seqpack.cp.auto import cheapest
from seqpack.cp.context import ContextParallel
from seqpack.cp.cost import RATES, AttentionShape
from seqpack.cp.exchange import Wire
from seqpack.cp.kernels import Kernels
from seqpack.train.summary import ContextPrice

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from seqpack.attention.contract import AttentionBackend
    from seqpack.models.load import ModelSpec
    from seqpack.options.context import ContextOptions
    from seqpack.runtime.batch import Batch
    from seqpack.runtime.device import DeviceBackend
    from seqpack.runtime.parallel import ParallelPlan


def context_settings(options: ContextOptions, parallel: ParallelPlan) -> ContextSettings | None:
    """What the options ask for; None with one rank to a row."""
    if parallel.cp == 1:
        return None
    return ContextSettings(
        parallel.cp,
        options.context_parallel_algo,
        options.cp_plan or "zigzag",
        options.cp_window_size,
        options.ulysses_degree_in_cp,
    )


def needs_parts(settings: ContextSettings | None) -> bool:
    """Whether the attention backend must compute over some of the keys at a time."""
    return settings is not None and settings.name in NEED_PARTS


def attention_name(options: ContextOptions, name: str) -> str:
    """``--attention`` under ``--attention-mask-type``; SP208 if the two contradict each other."""
    if options.attention_mask_type == "causal":
        return name
    if name not in ("auto", "reference"):
        raise ConfigError(
            "SP208",
            f"--attention-mask-type general builds the whole mask, which --attention {name} does not take",
            help="leave one of them out",
        )
    return "reference"


def make_planner(
    settings: ContextSettings,
    options: ContextOptions,
    spec: ModelSpec,
    parallel: ParallelPlan,
    backend: DeviceBackend,
    attention: AttentionBackend,
    element_bytes: int,
) -> Planner:
    """The planner of a run; SP605 if the settings do not fit the ranks or the model."""
    heads = spec.config.num_attention_heads
    keys = getattr(spec.config, "num_key_value_heads", None) or heads
    shape = AttentionShape(max(1, heads // parallel.tp), max(1, keys // parallel.tp), spec.head_size, element_bytes)
    rates = RATES[options.cp_device or backend.device.type]
    if options.cp_link is not None:
        rates = replace(rates, link=options.cp_link * 1e9)
    return Planner(settings, shape, rates, parts=attention.load_partial is not None)


def share_rows(
    planner: Planner, mesh: DeviceMesh, attention: AttentionBackend, backend: DeviceBackend
) -> Callable[[Batch], Batch]:
    """What takes this rank's part of a batch that the ranks of ``cp`` share."""
    partial = attention.load_partial() if attention.load_partial is not None else None
    context = ContextParallel(
        planner, Wire.of(mesh["cp"].get_group()), Kernels(attention.load(), partial), backend.device
    )
    return context.shard


def prices(planner: Planner, batches: Iterable[Batch]) -> list[ContextPrice]:
    """What each algorithm would cost for these batches, and how often ``auto`` takes it."""
    found = [planner.offers(batch.segments.attended.cu_seqlens) for batch in batches]
    taken = Counter(cheapest(offers) for offers in found)
    rows = []
    for name in found[0]:
        of_name = [offers[name].price for offers in found]
        sent = [max(price.sent) * planner.shape.element_bytes for price in of_name]
        rows.append(
            ContextPrice(
                name,
                bytes_sent=float(np.mean(sent)),
                balance=float(np.mean([price.balance for price in of_name])),
                worst_balance=max(price.balance for price in of_name),
                seconds=float(np.mean([price.seconds for price in of_name])),
                taken=taken[name] / len(found),
            )
        )
    return rows
