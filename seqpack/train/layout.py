"""Whether a model can be laid out on ranks as the options say; found out before any weight exists."""

from __future__ import annotations

from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.models.expert_parallel import check_expert_parallel
from seqpack.models.stages import PipelineCut, cut_pipeline
from seqpack.models.tensor_parallel import check_tensor_parallel
from seqpack.options.check import refuse_idle
from seqpack.options.context import ContextOptions
from seqpack.options.train import LoraOptions, ParallelOptions, TrainOptions
from seqpack.runtime.parallel import ParallelPlan
from seqpack.train.flops import costs_of_layers


def refuse_idle_flags(plan: ParallelPlan, options: ParallelOptions, context: ContextOptions) -> None:
    """ConfigError SP028 for flags about a pipeline or about shared rows where there is none.

    ``--context-parallel-algo`` is no such flag: scripts name one beside a degree that is sometimes 1.
    """
    if plan.pp == 1:
        refuse_idle(
            options,
            ("num_layers_per_virtual_pipeline_stage", "num_layer_list", "pipeline_schedule"),
            because="there is no pipeline",
            help="add --pipeline-model-parallel-size, or leave it out",
        )
    if plan.cp == 1:
        refuse_idle(
            context,
            ("cp_plan", "cp_window_size", "ulysses_degree_in_cp", "cp_link", "cp_device"),
            because="no processes share rows",
            help="add --context-parallel-size, or leave it out",
        )


def cut_model(
    config: Any, plan: ParallelPlan, options: ParallelOptions, training: TrainOptions, lora: LoraOptions
) -> PipelineCut | None:
    """The stages of the model, or None without a pipeline; ConfigError for a layout that is not possible."""
    check_tensor_parallel(config, plan.tp)
    check_expert_parallel(config, plan.ep, plan.tp)
    if lora.lora_r is not None and plan.tp * plan.pp * plan.ep > 1:
        raise ConfigError(
            "SP602",
            "--lora-r is not there yet together with --tp, --pp or --ep",
            help="leave one of them out: data parallel processes train adapters",
        )
    if plan.pp == 1:
        return None
    if options.pipeline_schedule == "zero-bubble" and training.recompute_granularity == "selective":
        raise ConfigError(
            "SP610",
            "--recompute-granularity selective cannot be combined with --pipeline-schedule zero-bubble, which goes "
            "through the layers of a stage twice on the way back",
            help="choose --recompute-granularity full, or --pipeline-schedule 1f1b",
        )
    return cut_pipeline(
        config,
        plan.pp,
        costs_of_layers(config),
        schedule=options.pipeline_schedule,
        layers_per_stage=options.num_layers_per_virtual_pipeline_stage,
        layer_list=options.num_layer_list,
    )
