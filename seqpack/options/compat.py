"""Flags of the systems we replace: those that choose their behaviour, and those that change nothing here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.check import refuse_known
from seqpack.options.field import flag_names, option

_MODEL = "It is a matter of the model; ids are those of --tokenizer."


@dataclass(frozen=True, kw_only=True, slots=True)
class CompatOptions:
    """Compatibility"""

    compat: Literal["none", "mindspeed"] = option(
        "none", "Write the bytes MindSpeed-LLM writes, with what it cuts and loses; the ledger counts it."
    )
    n_subs: int | None = option(None, "Under --compat mindspeed: pack this many subsets of the rows apart.", min=1)

    pad_to_multiple_of: int | None = option(
        None,
        "Under --compat mindspeed: fill documents of pretraining text up, with an id beyond the vocabulary.",
        min=1,
    )

    def __post_init__(self) -> None:
        if self.compat != "mindspeed" and (self.pad_to_multiple_of or 1) > 1:
            raise ConfigError(
                "SP026",
                "--pad-to-multiple-of is only for --compat mindspeed: its filler tokens are no text to train on",
                help="leave it out, or add --compat mindspeed to get the same files as MindSpeed-LLM",
            )

    def notes(self) -> list[str]:
        """A sentence for each flag that was given and has no effect."""
        if self.compat == "mindspeed" or self.n_subs is None:
            return []
        return ["--n-subs has no effect: samples are packed together whatever --workers is, which takes fewer packs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IgnoredOptions:
    """Accepted, without effect"""

    log_interval: int | None = option(None, "Progress is shown by time.", hidden=True)
    tokenizer_type: str | None = option(None, "The files of --tokenizer say what it is.", hidden=True)
    patch_tokenizer_type: str | None = option(None, "The files of --tokenizer say what it is.", hidden=True)
    tokenizer_not_use_fast: bool = option(
        False, "Only tokenizer.json is read, which is the fast kind.", hidden=True, negation=False
    )
    vocab_file: str | None = option(None, "The vocabulary is in the tokenizer.json of --tokenizer.", hidden=True)
    merge_file: str | None = option(None, "The merges are in the tokenizer.json of --tokenizer.", hidden=True)
    vocab_size: int | None = option(None, "The vocabulary is that of --tokenizer.", hidden=True)
    padded_vocab_size: int | None = option(None, _MODEL, hidden=True)
    pad_vocab_size_to: int | None = option(None, _MODEL, hidden=True)
    make_vocab_size_divisible_by: int | None = option(None, _MODEL, hidden=True)
    extra_vocab_size: int | None = option(None, _MODEL, hidden=True)
    overwrite_cache: bool = option(False, "There is no cache to overwrite.", hidden=True, negation=False)
    cache_dir: str | None = option(None, "Nothing is cached.", hidden=True)
    dataset_impl: str | None = option(None, "Files are always memory-mapped IndexedDatasets.", hidden=True)
    streaming: bool = option(False, "Files are always read as a stream.", hidden=True, negation=False)
    partitions: int | None = option(None, "Files are cut into shards for --workers, and joined again.", hidden=True)
    lang: str | None = option(None, "It chooses how sentences are split, which is not done.", hidden=True)
    keep_newlines: bool = option(
        False, "Sentences are not split, so all line breaks are kept.", hidden=True, negation=False
    )
    debug: bool = option(False, "-v prints more.", hidden=True, negation=False)

    def notes(self) -> list[str]:
        """One sentence for each of these flags that was given."""
        return [
            f"{flag_names(field)[0]} has no effect: {field.metadata['help'][0].lower()}{field.metadata['help'][1:]}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) not in (None, False)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedOptions:
    """Known, but not supported"""

    split_sentences: bool = option(
        False, "documents stay whole | split the text before, one sentence a row", hidden=True, negation=False
    )
    hf_datasets_params: str | None = option(
        None,
        "data sets are not loaded with arguments of their own | name the files, or the data set as org/name, "
        "with --input",
        hidden=True,
    )
    script_data_dir: str | None = option(
        None,
        "scripts of data sets are not run | save the data set as .parquet or .jsonl and give these files",
        hidden=True,
    )
    interleave_probs: str | None = option(
        None, "data sets are joined one after the other, and packs are shuffled by --seed | leave it out", hidden=True
    )
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = option(
        "concat",
        "data sets are joined one after the other (concat), and packs are shuffled by --seed | leave it out, or make "
        "a set of each and mix them in training",
        hidden=True,
    )
    merge_group_keys: list[str] = option(
        [],
        "file pairs are not joined by their names | name all raw files with --input, which makes one set",
        hidden=True,
    )
    reasoning_effort: str | None = option(
        None, "the text it adds is not in the template | put that text into the system message", hidden=True
    )
    drop_thinking: Literal["true", "false"] = option(
        "true", "thoughts of earlier replies are left out, as DeepSeek-V4 does | leave it out", hidden=True
    )
    data_obfuscation: bool = option(False, "ids are not obfuscated | leave it out", hidden=True, negation=False)
    obf_seed_content: str | None = option(None, "ids are not obfuscated | leave it out", hidden=True)
    max_documents: int | None = option(None, "it is called --max-samples here | use that", hidden=True)
    find_optimal_num_workers: bool = option(
        False,
        "the number of processes does not change the data | choose --workers, all cores by default",
        hidden=True,
        negation=False,
    )
    placeholder_token: str | None = option(
        None, "process reward data are not made | leave it out for other data", hidden=True
    )
    reward_tokens: list[str] = option([], "process reward data are not made | leave it out for other data", hidden=True)

    def __post_init__(self) -> None:
        refuse_known(self)
