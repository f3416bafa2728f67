"""What ``seqpack convert`` accepts."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import flag_names, option

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


_LORA = (
    "adapters that Megatron trained are not merged or exported | merge them in the training run, "
    "or train the adapter with seqpack train --lora-r"
)
_OTHER_FAMILY = "no family that can be converted has this"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertOptions:
    """Weights"""

    source: Path = option(
        help="Hugging Face model, Megatron checkpoint, or training run of ours (SAVE or SAVE/step-N).",
        flags=("--load-dir",),
        positional=True,
        metavar="SOURCE",
    )
    to: Literal["mcore", "hf"] | None = option(
        None, "Layout to write: mcore (Megatron-core) or hf (Hugging Face). Required."
    )
    output: Path = option(help="Directory to write.", flags=("--output", "--save-dir"), short="-o")
    hf_dir: Path | None = option(
        None,
        "For a Megatron checkpoint: where its config.json and tokenizer are, if not in SOURCE/hf.",
        flags=("--hf-dir", "--hf-cfg-dir"),
    )
    params_dtype: Literal["bf16", "fp16", "fp32"] | None = option(
        None, "Type to store weights in; by default each keeps its own."
    )
    release: bool = option(False, "With --to mcore: write release/ and the tracker 'release' instead of iteration 1.")
    max_shard_size: str = option("4GB", "With --to hf: largest safetensors file, such as 500MB or 4GB.")
    overwrite: bool = option(False, "Replace an earlier output in that directory.")
    verify: bool = option(True, "Read the written files back and compare every byte with the source.")
    check: bool = option(
        False, "Also run source and output on a few prompts and print by how much their logits differ."
    )
    dry_run: bool = option(False, "Check everything, say what would be written, and write nothing.", negation=False)
    load_model_type: Literal["hf", "mg"] | None = option(None, "What SOURCE is; it is seen anyway.", hidden=True)
    save_model_type: Literal["hf", "mg"] | None = option(None, "--to under another name.", hidden=True)
    model_type_hf: str | None = option(None, "The family; it is read from config.json.", hidden=True)
    add_qkv_bias: bool = option(False, "q, k and v have biases; the family says so.", hidden=True, negation=False)

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size)
        if self.to is None and self.save_model_type is None:
            raise ConfigError("SP001", "--to is missing", help="say which layout to write: --to mcore or --to hf")
        if self.to is not None and self.save_model_type not in (None, {"mcore": "mg", "hf": "hf"}[self.to]):
            raise ConfigError(
                "SP001", f"--to {self.to} contradicts --save-model-type {self.save_model_type}", help="give one of them"
            )

    @property
    def to_megatron(self) -> bool:
        return (self.to or self.save_model_type) in ("mcore", "mg")


@dataclass(frozen=True, kw_only=True, slots=True)
class MegatronOptions:
    """Megatron checkpoint"""

    tp: int = option(
        1, "Tensor-parallel size to write.", flags=("--target-tensor-parallel-size", "--tp"), min=1, metavar="N"
    )
    pp: int = option(
        1, "Pipeline-parallel size to write.", flags=("--target-pipeline-parallel-size", "--pp"), min=1, metavar="N"
    )
    ep: int = option(
        1,
        "Expert-parallel size to write.",
        flags=("--target-expert-parallel-size", "--target-expert-model-parallel-size", "--ep"),
        min=1,
        metavar="N",
    )
    expert_tp: int | None = option(
        None,
        "Pieces each expert is in: the tensor-parallel size, which is the default, or 1.",
        flags=("--expert-tensor-parallel-size",),
        min=1,
        metavar="N",
    )
    layers_per_virtual_stage: int | None = option(
        None,
        "Virtual pipeline: layers of each virtual stage.",
        flags=("--num-layers-per-virtual-pipeline-stage",),
        min=1,
        metavar="N",
    )
    num_layer_list: str | None = option(
        None, "Layers of each pipeline stage, where they are not equal.", metavar="A,B,..."
    )
    noop_layers: str | None = option(
        None, "Places of layers that do nothing, in the numbering that counts them.", metavar="I,J,..."
    )
    make_vocab_size_divisible_by: int = option(
        1, "Fill the vocabulary up to a multiple of this times the tensor-parallel size.", min=1, metavar="N"
    )
    padded_vocab_size: int | None = option(None, "Rows of the filled-up vocabulary.", min=1, metavar="N")
    transformer_impl: Literal["local", "transformer_engine"] | None = option(
        None, "Whose parameter names to write; local by default, or as in SOURCE."
    )
    moe_grouped_gemm: bool = option(
        False,
        "Experts in grouped form: weight1 and weight2, or Transformer Engine's with --transformer-impl.",
        negation=False,
    )
    ckpt_format: str = option(
        "torch",
        "Layout of the files: torch, a file per rank; or torch_dist, unsplit, which Megatron-LM opens at any split.",
        metavar="FORMAT",
    )
    source_tp: int | None = option(None, "TP", flags=("--source-tensor-parallel-size",), hidden=True)
    source_pp: int | None = option(None, "PP", flags=("--source-pipeline-parallel-size",), hidden=True)
    source_ep: int | None = option(None, "EP", flags=("--source-expert-parallel-size",), hidden=True)

    def __post_init__(self) -> None:
        if self.expert_tp not in (None, 1, self.tp):
            raise ConfigError(
                "SP414",
                f"--expert-tensor-parallel-size {self.expert_tp} is neither 1 nor --target-tensor-parallel-size",
                help="leave it out, or give 1",
            )
        numbers(self.num_layer_list, "--num-layer-list")
        numbers(self.noop_layers, "--noop-layers")


@dataclass(frozen=True, kw_only=True, slots=True)
class IgnoredConvertOptions:
    """Accepted, without effect"""

    use_mcore_models: bool = option(False, "Megatron-core's names are always used.", hidden=True, negation=False)
    tokenizer_model: str | None = option(None, "Tokenizer files are copied as they are.", hidden=True)
    vocab_file: str | None = option(None, "The vocabulary's size is in config.json.", hidden=True)
    spec: list[str] = option([], "The family says which parameters a layer has.", hidden=True)
    megatron_path: str | None = option(None, "Megatron-LM is not needed.", hidden=True)
    max_queue_size: int | None = option(None, "There is no queue.", hidden=True)
    no_checking: bool = option(False, "Parameters are always checked.", hidden=True, negation=False)
    save_layer_by_layer: bool = option(
        False, "A block of one tensor is in memory at a time.", hidden=True, negation=False
    )
    loader: str | None = option(None, "What SOURCE is is seen.", hidden=True)
    saver: str | None = option(None, "--to says what to write.", hidden=True)

    def notes(self) -> list[str]:
        """One sentence for each of these flags that was given."""
        return [
            f"{flag_names(field)[0]} has no effect: {field.metadata['help'][0].lower()}{field.metadata['help'][1:]}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedConvertOptions:
    """Known, but not supported"""

    model_type: Literal["GPT", "BERT"] = option("GPT", "only decoders (GPT) are converted | leave it out", hidden=True)
    moe_tp_extend_ep: bool = option(
        False,
        "experts over TP times EP ranks are a split that only MindSpeed-LLM reads | "
        "leave it out, or give a larger --target-expert-parallel-size",
        hidden=True,
        negation=False,
    )
    schedules_method: str | None = option(
        None, "the placement of layers for dualpipev is not written | leave it out", hidden=True
    )
    num_layers: int | None = option(
        None, "all layers are converted | leave it out: their number is in config.json", hidden=True
    )
    load_checkpoint_loosely: bool = option(
        False,
        "parameters that are missing or left over are never ignored | leave it out and see what is listed",
        hidden=True,
        negation=False,
    )
    save_to_legacy: bool = option(
        False, "only Megatron-core's names are written | leave it out", hidden=True, negation=False
    )
    true_vocab_size: int | None = option(
        None, "the vocabulary's size is that of config.json | name the right one with --hf-dir", hidden=True
    )
    lora_load: Path | None = option(None, f"{_LORA}", hidden=True)
    lora_r: int | None = option(None, f"{_LORA}", hidden=True)
    lora_alpha: int | None = option(None, f"{_LORA}", hidden=True)
    lora_target_modules: list[str] = option([], f"{_LORA}", hidden=True)
    save_lora_to_hf: bool = option(False, f"{_LORA}", hidden=True, negation=False)
    mtp_num_layers: int = option(0, _OTHER_FAMILY, hidden=True)
    mla_mm_split: bool = option(False, _OTHER_FAMILY, hidden=True, negation=False)
    first_k_dense_replace: int | None = option(None, _OTHER_FAMILY, hidden=True)
    add_dense_bias: bool = option(False, _OTHER_FAMILY, hidden=True, negation=False)
    w_pack: bool = option(False, _OTHER_FAMILY, hidden=True)
    post_norm: bool = option(False, _OTHER_FAMILY, hidden=True, negation=False)

    def given(self) -> list[tuple[str, str, str]]:
        """Flag, reason and remedy of each that was given; no remedy: only families that are not known have it."""
        found = []
        for field in dataclasses.fields(self):
            default = [] if field.default is dataclasses.MISSING else field.default
            if getattr(self, field.name) != default:
                why, _, remedy = field.metadata["help"].partition(" | ")
                found.append((flag_names(field)[0], why, remedy))
        return found


def numbers(text: str | None, flag: str) -> tuple[int, ...]:
    """``"1,2"`` -> (1, 2); ConfigError SP414 unless it is whole numbers with commas between."""
    if not text:
        return ()
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ConfigError("SP414", f"{flag} {text!r} is no list of numbers", help="write them with commas: 2,3,3")
    return tuple(int(number) for number in text.split(","))


def parse_size(text: str) -> int:
    """Bytes of ``"4GB"``, ``"500 MiB"`` or ``"1000"``; ConfigError unless it is a positive number with a known unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(
            "SP410", f"--max-shard-size {text!r} is not a size", help="write a number and a unit: 500MB, 4GB, 2GiB"
        )
    return size
