"""``--save-format mcore``: the trained model as a Megatron checkpoint, split as the run was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpack.convert.convert import convert_weights
from seqpack.convert.request import Request
from seqpack.convert.source import read_model
from seqpack.convert.split import SplitRequest
from seqpack.options.convert import ConvertOptions, MegatronOptions

if TYPE_CHECKING:
    from seqpack.models.stages import PipelineCut
    from seqpack.runtime.parallel import ParallelPlan


def megatron_options(parallel: ParallelPlan, cut: PipelineCut | None) -> MegatronOptions:
    """The split of a run.

    Megatron has no stages in the shape of a V, and no virtual stages that differ in size: there, every rank gets
    as many layers as it had, in the order of the model.
    """
    whole = MegatronOptions(tp=parallel.tp, pp=parallel.pp, ep=parallel.ep)
    if cut is None:
        return whole
    counts = [len(layers) for layers in cut.layers]
    if cut.stages_per_rank > 1 and not cut.v_shaped and len(set(counts)) == 1:
        return replace(whole, layers_per_virtual_stage=counts[0])
    by_rank = [sum(counts[stage] for stage in cut.of_rank(rank)) for rank in range(cut.size)]
    return replace(whole, num_layer_list=",".join(map(str, by_rank)))


def check_export(config: Any, options: MegatronOptions) -> None:
    """ConfigError SP402 for a family that cannot be converted, SP414 if it cannot be split so."""
    request = Request(ConvertOptions(source=Path(), to="mcore", output=Path()), options)
    SplitRequest(
        options.tp,
        options.pp,
        options.ep,
        layers_per_virtual_stage=options.layers_per_virtual_stage,
        num_layer_list=request.num_layer_list,
    ).of(read_model(config.to_dict()).dims)


def export(model: Path, output: Path, options: MegatronOptions) -> None:
    """Convert the Hugging Face directory ``model``, which stays, to ``output``; see ``convert_weights`` for errors."""
    convert_weights(Request(ConvertOptions(source=model, to="mcore", output=output, overwrite=True), options))
