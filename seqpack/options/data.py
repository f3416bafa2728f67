"""Where samples come from, how they become tokens, and how they are packed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from seqpack.core.errors import ConfigError
from seqpack.core.mask import MaskMode
from seqpack.options.field import option


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions:
    """Input"""

    input: list[Path] = option(
        help="Files, folders or 'patterns': .jsonl .json .csv .txt (also .gz, .zst), .parquet .arrow; or org/name, a "
        "data set of the Hugging Face hub.",
        positional=True,
        flags=("--input",),
    )
    handler: str = option(
        "auto",
        "How a row becomes a sample; auto looks at the columns. seqpack plugins lists all.",
        flags=("--handler", "--handler-name"),
    )
    map_keys: str | None = option(
        None, 'Column names of the data, as JSON: \'{"prompt": "question", "response": "answer"}\'.', metavar="JSON"
    )

    json_keys: list[str] = option(
        [], "Columns of pretraining text, a .bin/.idx pair each (default: text).", metavar="COLUMN"
    )
    dataset_dir: Path | None = option(
        None, "Folder of LLaMA-Factory's dataset_info.json; --input then holds names of data sets.", metavar="DIR"
    )

    max_samples: int | None = option(
        None, "Read only the first rows of the data (of each data set of --dataset-dir).", min=1
    )
    dataset_additional_keys: list[str] = option(
        [], "Columns for R1 handlers to tokenize besides the prompt; labels is the answer.", metavar="COLUMN"
    )
    pregrouped: bool = option(
        False,
        "A row may be a list of samples, which become one pack in their order, as seqpack pack groups raw files.",
        negation=False,
    )

    def columns(self) -> dict[str, Any]:
        """``--map-keys`` as a mapping; empty if not given. ConfigError if it is not a JSON object of names.

        The value of ``tags`` may be an object of names again.
        """
        if self.map_keys is None:
            return {}
        try:
            value: Any = json.loads(self.map_keys)
        except ValueError as error:
            raise ConfigError("SP010", f"--map-keys is not valid JSON: {error}", help=_MAP_KEYS_FORM) from error
        if not isinstance(value, dict) or not all(_is_name(part, name) for part, name in value.items()):
            raise ConfigError("SP010", "--map-keys must be a JSON object of column names", help=_MAP_KEYS_FORM)
        return value


def _is_name(part: str, value: Any) -> bool:
    if part == "tags" and isinstance(value, dict):
        return all(isinstance(name, str | None) for name in value.values())
    return isinstance(value, str | None)


_MAP_KEYS_FORM = 'like --map-keys \'{"prompt": "question", "query": null, "response": "answer"}\''


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """Template and tokenizer"""

    tokenizer: Path = option(
        None,
        "Directory with tokenizer.json.",
        flags=("--tokenizer", "--tokenizer-name-or-path"),
        metavar="DIR",
    )
    tokenizer_model: Path | None = option(None, "A file of the tokenizer; its folder is --tokenizer.", hidden=True)
    load: Path | None = option(None, "The folder of a model; it is --tokenizer.", hidden=True)
    prompt_type: str = option(
        "qwen",
        "Prompt template; seqpack plugins lists them. chat-template is the tokenizer's own.",
        flags=("--prompt-type", "--template"),
    )
    tokenizer_engine: Literal["auto", "fastokens", "gigatoken", "tokenizers"] = option(
        "auto",
        "Library that encodes the text; all give the same ids, and a fast one is compared with tokenizers first.",
    )
    prompt_type_path: Path | None = option(
        None,
        "More templates: a .yaml or .jinja file, MindSpeed-LLM's templates.json, or a folder of these.",
        metavar="PATH",
    )
    enable_thinking: Literal["true", "false", "none"] = option(
        "none", "Thoughts in replies: true, replies without one begin with an empty one; false, all are removed."
    )
    train_on: Literal["assistant", "last", "all"] = option(
        "assistant", "What is trained on: every reply, the last one only, or everything."
    )
    train_on_prompt: bool = option(False, "The same as --train-on all.")
    mask_history: bool = option(False, "The same as --train-on last.")
    allow_special_tokens: bool = option(
        False, "Let texts of the data that look like control tokens become control tokens."
    )

    def __post_init__(self) -> None:
        if cast("Path | None", self.tokenizer) is None:
            instead = self.load or (self.tokenizer_model and self.tokenizer_model.parent)
            if instead is None:
                raise ConfigError("SP001", "--tokenizer is missing", help="give the directory with tokenizer.json")
            object.__setattr__(self, "tokenizer", instead)

    def notes(self) -> list[str]:
        """A sentence for each flag of other systems that was given."""
        given = (("--tokenizer-model", self.tokenizer_model), ("--load", self.load))
        return [
            f"{flag} stands for --tokenizer {self.tokenizer}"
            if self.tokenizer in (path, path.parent)
            else f"{flag} has no effect: the tokenizer is that of --tokenizer {self.tokenizer}"
            for flag, path in given
            if path is not None
        ]

    @property
    def thinking(self) -> bool | None:
        """``--enable-thinking`` as a value: None where nothing is to be changed."""
        return {"true": True, "false": False}.get(self.enable_thinking)

    @property
    def trained(self) -> Literal["assistant", "last", "all"]:
        """What is trained on, whichever flag says so; ConfigError SP019 if two flags disagree."""
        asked = {
            "all": self.train_on_prompt or self.train_on == "all",
            "last": self.mask_history or self.train_on == "last",
        }
        if all(asked.values()):
            raise ConfigError(
                "SP019",
                "--train-on, --train-on-prompt and --mask-history ask for different things",
                help="give one of them: --train-on assistant | last | all",
            )
        return "all" if asked["all"] else "last" if asked["last"] else "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthOptions:
    """Length"""

    seq_length: int | None = option(None, "Tokens in each pack, and the most a sample may have.", min=2)
    on_overlong: Literal["truncate", "split", "drop", "error"] = option(
        "truncate",
        "A sample longer than --seq-length: cut inside its texts, make several of it, cut between its turns, leave it "
        "out, or stop.",
    )
    split_sft: bool = option(
        False, "With --on-overlong split: also split a reply that is too long by itself; else its turn is left out."
    )
    max_drop: float = option(0.05, "Stop with exit code 4 if a larger share of rows is left out.", min=0, max=1)
    dedup: Literal["none", "exact"] = option(
        "none", "exact: of samples with the same tokens and labels only the first goes into the set."
    )
    append_eod: bool = option(
        False,
        "End every document or sample with the end token, if it does not end so already (under --compat mindspeed: "
        "even then).",
    )


DEFAULT_STRATEGY = "balanced"


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyOptions:
    """Packing"""

    neat_pack: bool = option(False, "Keep the samples of a pack from seeing each other (block-causal mask).")
    mask: Literal["block-causal", "lower-triangular"] | None = option(
        None,
        "Who sees whom in a pack: each sample itself (block-causal, the same as --neat-pack), or all before it "
        "(lower-triangular, the default).",
    )
    strategy: str = option(DEFAULT_STRATEGY, "Which samples share a pack; seqpack plugins lists them.")
    align: int = option(1, "Start every sample at a multiple of this; what lies between is padding.", min=1)
    max_docs: int | None = option(None, "Most samples in a pack.", min=1)
    pack_window: int | None = option(
        None, "Pack so many samples at a time, apart from all others; 1000 is what several trainers do.", min=1
    )
    seed: int = option(1234, "Seed of everything random.", min=0)

    def check(self) -> None:
        """ConfigError SP031 if two flags ask for different masks, or samples would attend to padding between them."""
        if self.mask_mode is MaskMode.CAUSAL and self.align > 1:
            raise ConfigError(
                "SP031",
                f"--align {self.align} puts padding between samples, to which those behind would attend under the "
                "lower-triangular mask",
                help="add --neat-pack, or leave --align out",
            )

    @property
    def planning(self) -> dict[str, Any]:
        """What ``make_plan`` takes besides strategy, lengths and their limit."""
        return {
            "seed": self.seed,
            "align": self.align,
            "max_docs": self.max_docs,
            "pack_window": self.pack_window,
        }

    @property
    def mask_mode(self) -> MaskMode:
        """The mask, whichever flag says so; ConfigError SP031 if two flags disagree."""
        if self.neat_pack and self.mask == "lower-triangular":
            raise ConfigError(
                "SP031",
                "--neat-pack and --mask lower-triangular ask for different masks",
                help="leave one of them out",
            )
        isolated = self.neat_pack or self.mask == "block-causal"
        return MaskMode.BLOCK_CAUSAL if isolated else MaskMode.CAUSAL


@dataclass(frozen=True, kw_only=True, slots=True)
class PackOptions(StrategyOptions):
    """Packing"""

    pack: bool = option(
        False, "Put several samples into each sequence of --seq-length tokens; --neat-pack and --mask imply it."
    )
    sequence_packing: bool = option(
        False, "Pai-Megatron-Patch's packs: --neat-pack --strategy sequential.", hidden=True, negation=False
    )
    keep_sequential_samples: bool = option(
        False, "Pai-Megatron-Patch's order of samples: --strategy sequential.", hidden=True, negation=False
    )

    def __post_init__(self) -> None:
        if self.sequence_packing:
            object.__setattr__(self, "neat_pack", True)
        if (self.sequence_packing or self.keep_sequential_samples) and self.strategy == DEFAULT_STRATEGY:
            object.__setattr__(self, "strategy", "sequential")
        if self.keep_sequential_samples and not self.packs:
            object.__setattr__(self, "strategy", DEFAULT_STRATEGY)

    def notes(self) -> list[str]:
        """A sentence for each flag of other systems that was given."""
        notes = []
        if self.sequence_packing:
            notes.append(f"--sequence-packing stands for --neat-pack --strategy {self.strategy}")
        if self.keep_sequential_samples and self.packs:
            notes.append(f"--keep-sequential-samples stands for --strategy {self.strategy}")
        elif self.keep_sequential_samples:
            notes.append("--keep-sequential-samples has no effect: samples that are not packed keep their order")
        return notes

    @property
    def packs(self) -> bool:
        return self.pack or self.neat_pack or self.mask is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteOptions:
    """Result"""

    output_prefix: Path = option(
        help="Files are called PREFIX_packed_...; those of pretraining text PREFIX_COLUMN_document...",
        flags=("--output-prefix",),
        short="-o",
        metavar="PREFIX",
    )
    overwrite: bool = option(False, "Replace a data set that exists.")
    emit: Literal["megatron", "pai"] = option(
        "megatron", "pai: also write PREFIX_text_document as Pai-Megatron-Patch lays out packs."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRunOptions:
    """Result"""

    dry_run: bool = option(False, "Check everything and say what would be done; write nothing.", negation=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOptions:
    """Work"""

    workers: int | None = option(
        None, "Processes that tokenize, all cores by default; the data do not depend on it.", min=1
    )
    shard_index: int | None = option(
        None,
        "Do one share of the data, from 0, as one of --num-shards runs on any machines that share the disk; "
        "seqpack merge then makes the set. Default: SLURM_PROCID, RANK.",
        min=0,
    )
    num_shards: int | None = option(
        None, "Number of such runs; 1 takes no notice of the environment. Default: SLURM_NTASKS, WORLD_SIZE.", min=1
    )
    ray: bool = option(
        False,
        "Tokenize on the Ray cluster of RAY_ADDRESS, whose machines share the disk; without one, Ray is started here.",
        negation=False,
    )

    def __post_init__(self) -> None:
        index, count = self.share
        if self.ray and self.is_share:
            raise ConfigError(
                "SP030",
                "--ray and --shard-index both say who does the work",
                help="leave one of them out; under srun and torchrun --num-shards 1 goes with --ray",
            )
        which = self.shard_index is not None or count == 1 or _share_of_environment() is not None
        if index >= count or not which:
            raise ConfigError(
                "SP030",
                f"--shard-index {index} is not below --num-shards {count}" if which else "--shard-index is missing",
                help="give both flags, counting from 0, or run under srun or torchrun, which say both",
            )

    @property
    def share(self) -> tuple[int, int]:
        """Which share of how many is ours: from the flags, or else from what srun or torchrun says."""
        index, count = (0, 1) if self.num_shards == 1 else _share_of_environment() or (0, 1)
        return (
            index if self.shard_index is None else self.shard_index,
            count if self.num_shards is None else self.num_shards,
        )

    @property
    def is_share(self) -> bool:
        """Whether this run does a share of the data only."""
        return self.share[1] > 1

    def takes(self, shard: int) -> bool:
        """Whether the shard with this number is ours."""
        index, count = self.share
        return shard % count == index


def _share_of_environment() -> tuple[int, int] | None:
    for names in (("SLURM_PROCID", "SLURM_NTASKS"), ("RANK", "WORLD_SIZE")):
        values = [os.environ.get(name, "") for name in names]
        if all(value.isdigit() for value in values):
            return int(values[0]), int(values[1])
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeOptions:
    """Result"""

    output_prefix: Path = option(
        help="The --output-prefix of the runs that made the parts.",
        flags=("--output-prefix",),
        short="-o",
        positional=True,
        metavar="PREFIX",
    )
    overwrite: bool = option(False, "Replace a data set that exists.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RepackOptions:
    """Data set"""

    source: Path | None = option(None, "Prefix of a set made by seqpack preprocess.", positional=True, metavar="PREFIX")
    seq_length: int = option(help="Tokens in each pack.", min=1)
    on_overlong: Literal["drop", "split", "error"] = option(
        "error", "A sample longer than --seq-length: leave out, go on in another pack, or stop."
    )
    max_drop: float = option(0.05, "Stop with exit code 4 if a larger share of samples is left out.", min=0, max=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """Plan and result"""

    lengths: Path | None = option(
        None, "Plan these lengths instead of a set: a .npy file of whole numbers.", metavar="FILE"
    )
    plan_only: bool = option(False, "Write which sample goes where (a .npz file), and no tokens.", negation=False)
    output: Path | None = option(
        None,
        "Prefix of the new set, or file of the plan.",
        flags=("--output", "--output-prefix"),
        short="-o",
        metavar="PREFIX",
    )
    overwrite: bool = option(False, "Replace a data set or plan that exists.")
    emit: Literal["megatron", "pai"] = option(
        "megatron", "pai: also write PREFIX_text_document as Pai-Megatron-Patch lays out packs."
    )

    @property
    def plans(self) -> bool:
        """Whether only a plan is asked for."""
        return self.plan_only or self.lengths is not None

    @property
    def write(self) -> WriteOptions:
        """Where a set goes; ConfigError if that was not said."""
        if self.output is None:
            raise ConfigError("SP001", "--output is missing", help="-o PREFIX says where the packs go")
        return WriteOptions(output_prefix=self.output, overwrite=self.overwrite, emit=self.emit)
