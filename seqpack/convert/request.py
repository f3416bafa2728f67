"""What a command line asks for, and whether its flags agree with each other and with the source."""

from __future__ import annotations

from dataclasses import dataclass, field

from seqpack.convert.families import check_model_type, unknown_family
from seqpack.convert.mcore import Experts
from seqpack.convert.source import Source
from seqpack.core.errors import ConfigError
from seqpack.options.check import refuse_idle
from seqpack.options.convert import (
    ConvertOptions,
    IgnoredConvertOptions,
    MegatronOptions,
    RefusedConvertOptions,
    numbers,
)


@dataclass(frozen=True, slots=True)
class Request:
    """All option groups of ``seqpack convert``."""

    options: ConvertOptions
    megatron: MegatronOptions = field(default_factory=MegatronOptions)
    ignored: IgnoredConvertOptions = field(default_factory=IgnoredConvertOptions)
    refused: RefusedConvertOptions = field(default_factory=RefusedConvertOptions)

    @property
    def num_layer_list(self) -> tuple[int, ...]:
        return numbers(self.megatron.num_layer_list, "--num-layer-list")

    @property
    def noop_layers(self) -> tuple[int, ...]:
        return numbers(self.megatron.noop_layers, "--noop-layers")


def check_request(request: Request) -> None:
    """What can be said before the source is read: SP402 unknown family, SP029 not supported, SP028 without effect."""
    options, megatron = request.options, request.megatron
    if options.model_type_hf is not None:
        check_model_type(options.model_type_hf)
    refused = request.refused.given()
    for flag, why, remedy in refused:
        if not remedy:
            raise unknown_family(f"{flag}: {why}")
    for flag, why, remedy in refused:
        raise ConfigError("SP029", f"{flag} is not supported: {why}", help=remedy)
    if options.to_megatron:
        return
    sizes = {
        "--target-tensor-parallel-size": megatron.tp,
        "--target-pipeline-parallel-size": megatron.pp,
        "--target-expert-parallel-size": megatron.ep,
    }
    for flag, size in sizes.items():
        if size != 1:
            raise ConfigError(
                "SP414",
                f"{flag} {size}: a Hugging Face directory is not split",
                help="leave it out; how SOURCE is split is read from its files",
            )
    refuse_idle(
        megatron,
        ("make_vocab_size_divisible_by", "padded_vocab_size", "transformer_impl"),
        because="a Hugging Face directory is written, its vocabulary and names follow config.json",
        help="leave it out",
    )
    refuse_idle(options, ("release",), because="a Hugging Face directory is written", help="leave it out")


def check_source(request: Request, source: Source) -> None:
    """ConfigError SP413 for a flag that says something else than config.json or the checkpoint's files, SP028 for one
    without effect."""
    options, converter = request.options, source.model.converter
    if source.small_files == source.root:
        refuse_idle(
            options, ("hf_dir",), because=f"{source.root} has its own config.json and tokenizer", help="leave it out"
        )
    if options.model_type_hf is not None:
        check_model_type(options.model_type_hf, converter)
    if options.add_qkv_bias and not converter.has("self_attention.linear_qkv.bias"):
        raise _contradiction("--add-qkv-bias", f"{converter.architectures[0]} has no biases of q, k and v")
    if request.megatron.moe_grouped_gemm and not source.model.dims.num_experts:
        raise _contradiction("--moe-grouped-gemm", f"{converter.architectures[0]} has no experts")
    for flag, said, found in _about_source(request, source):
        if said and said != found:
            shown = ",".join(map(str, said)) if isinstance(said, tuple) else said
            raise _contradiction(f"{flag} {shown}", f"{source.root} has {_shown(found)}")


def _about_source(request: Request, source: Source) -> list[tuple[str, object, object]]:
    """Flag, what it says and what is so, of those that describe the source."""
    megatron = request.megatron
    split = source.form.split if source.form else None
    facts: list[tuple[str, object, object]] = [
        ("--source-tensor-parallel-size", megatron.source_tp, split.tp if split else 1),
        ("--source-pipeline-parallel-size", megatron.source_pp, split.pp if split else 1),
        ("--source-expert-parallel-size", megatron.source_ep, split.ep if split else 1),
    ]
    if request.options.to_megatron or split is None or source.form is None:
        return facts
    # on the way back, MindSpeed-LLM wants these repeated
    size = len(split.stages[0][0])
    facts += [
        ("--num-layers-per-virtual-pipeline-stage", megatron.layers_per_virtual_stage, size),
        ("--num-layer-list", request.num_layer_list, split.layers_per_stage),
        ("--expert-tensor-parallel-size", megatron.expert_tp, split.expert_tp),
    ]
    if split.noop_layers:
        facts.append(("--noop-layers", tuple(sorted(request.noop_layers)), split.noop_layers))
    if megatron.moe_grouped_gemm and source.form.experts is Experts.SEQUENTIAL:
        facts.append(("--moe-grouped-gemm", "grouped", "sequential"))
    return facts


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _contradiction(flag: str, what: str) -> ConfigError:
    return ConfigError("SP413", f"{flag}: {what}", help="leave the flag out: this is read from the files")
