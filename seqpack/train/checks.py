"""Flags against the data set, before any model is built: contradictions are refused, gaps filled in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.text.tokenizer import TOKENIZER_FILE, tokenizer_fingerprint

if TYPE_CHECKING:
    from seqpack.io.manifest import Manifest, TokenizerRecord
    from seqpack.options.train import TrainDataOptions

METRICS_FILE = "metrics.jsonl"
MODEL_FOLDER = "model"
ADAPTER_FOLDER = "adapter"
MEGATRON_FOLDER = "mcore"
RESULT_FOLDERS = (MODEL_FOLDER, ADAPTER_FOLDER, MEGATRON_FOLDER)


@dataclass(frozen=True, slots=True)
class Isolation:
    """Who may see whom in this run, and a sentence on where that comes from."""

    mask: MaskMode
    note: str


def resolve_isolation(manifest: Manifest, data: TrainDataOptions) -> Isolation:
    """The mask the data was packed for. The three flags are one question and only confirm it: SP203 if they do not."""
    apart, together = isolation_flags(data)
    if manifest.kind == "pretrain":
        return _documents(manifest)
    if not manifest.packed:
        return _unpacked(apart)
    if manifest.mask is MaskMode.CAUSAL:
        return _packed_causal(apart, together)
    return _packed_apart(apart, together)


def documents_isolated(manifest: Manifest | None, data: TrainDataOptions) -> bool:
    """Whether documents of pretraining text are kept apart; the flags and ``--append-eod`` go together: SP211 if not.

    A manifest says whether end tokens were appended, and then decides. Without one, the flags do.
    """
    apart, together = isolation_flags(data)
    if apart and together:
        raise ConfigError("SP203", f"{apart[0]} and {together[0]} contradict each other", help="give one of them")
    if data.eod_mask_loss is False:
        raise ConfigError(
            "SP203",
            "--no-eod-mask-loss was given, but the first token of a document is never trained on here",
            help="leave it out: what one text begins with does not follow from the end of another",
        )
    appended = None if manifest is None else manifest.recipe.get("append_eod")
    if appended is None:
        return bool(apart)
    if apart and not appended:
        raise ConfigError(
            "SP211",
            f"{apart[0]} was given, but the documents have no end token: the model would never learn to end one",
            help="preprocess the text again with --append-eod; or leave the flag out, and documents see each other",
        )
    if together and appended:
        raise ConfigError(
            "SP211",
            f"{together[0]} was given, but the documents were made with --append-eod, to be kept apart",
            help="leave the flag out; or preprocess the text again without --append-eod",
        )
    return bool(appended)


def isolation_flags(data: TrainDataOptions) -> tuple[list[str], list[str]]:
    """Which of the three flags ask to keep samples apart, and which not to."""
    given = {
        "neat-pack": data.neat_pack,
        "reset-position-ids": data.reset_position_ids,
        "reset-attention-mask": data.reset_attention_mask,
    }
    apart = [f"--{name}" for name, value in given.items() if value is True]
    together = [f"--no-{name}" for name, value in given.items() if value is False]
    return apart, together


def _documents(manifest: Manifest) -> Isolation:
    assert manifest.mask is not None
    see = "do not see" if manifest.mask is MaskMode.BLOCK_CAUSAL else "see"
    return Isolation(manifest.mask, f"documents of a row {see} each other; none predicts the first token of the next")


def _unpacked(apart: list[str]) -> Isolation:
    if apart:
        raise ConfigError(
            "SP203",
            f"{apart[0]} was given, but the data set is not packed: each row is one sample",
            help="leave the flag out, or pack the data first: seqpack pack --neat-pack",
        )
    return Isolation(MaskMode.BLOCK_CAUSAL, "not packed: each row is one sample")


def _packed_causal(apart: list[str], together: list[str]) -> Isolation:
    if apart:
        raise ConfigError(
            "SP203",
            f"{apart[0]} was given, but the data was packed so that samples of a pack see each other",
            help="pack it again: seqpack pack --neat-pack; or train without the flag",
        )
    source = "as you asked" if together else "as the data was packed (without --neat-pack)"
    return Isolation(MaskMode.CAUSAL, f"samples of a pack see each other, {source}")


def _packed_apart(apart: list[str], together: list[str]) -> Isolation:
    if together:
        raise ConfigError(
            "SP203",
            f"{together[0]} was given, but the data was packed with --neat-pack: samples do not see each other",
            help="leave the flag out; or pack the data again: seqpack pack --no-neat-pack",
        )
    source = "as you asked" if apart else "as the data was packed (--neat-pack)"
    return Isolation(MaskMode.BLOCK_CAUSAL, f"samples of a pack do not see each other, {source}")


def resolve_row_length(
    manifest: Manifest, data: TrainDataOptions, longest_row: int, *, all_packed: bool = True
) -> int | None:
    """The length rows are padded to under ``--pad-to seq-length``, else None; SP208 if that contradicts the data.

    With a packed set's ``manifest``, ``all_packed`` says whether the others are packed too.
    """
    if manifest.packed:
        if data.pad_to != "none" and all_packed:
            raise ConfigError("SP208", f"--pad-to {data.pad_to} is for unpacked data", help="leave it out")
        if manifest.kind == "sft" and data.seq_length not in (None, manifest.seq_length):
            raise ConfigError(
                "SP208",
                f"--seq-length is {data.seq_length}, the packs have {manifest.seq_length} tokens",
                help="leave it out, or pack the data again with this --seq-length",
            )
    if data.pad_to != "seq-length":
        return None
    if manifest.packed and manifest.seq_length is not None:
        return manifest.seq_length
    if data.seq_length is None or data.seq_length < longest_row:
        seen = "is missing" if data.seq_length is None else f"is {data.seq_length}"
        raise ConfigError(
            "SP208",
            f"--pad-to seq-length needs --seq-length, which {seen}; the longest row has {longest_row} tokens",
            help=f"give --seq-length {longest_row} or more",
        )
    return data.seq_length


def resolve_tokenizer(
    record: TokenizerRecord, tokenizer: Path | None, model_directory: Path | None, *, random_weights: bool
) -> Path | None:
    """The directory whose tokenizer files are saved with the model, or None if there is none any more.

    ``--tokenizer``, the model's own and the one the data was made with are looked at in this order. SP302 if one of
    the first two maps text to other ids than those in the data. Random weights belong to no tokenizer, so with them
    ``--tokenizer`` alone counts.
    """
    model_has_one = model_directory is not None and (model_directory / TOKENIZER_FILE).is_file()
    own = model_directory if model_has_one else None
    if tokenizer is not None:
        _check_fingerprint(record, "--tokenizer", tokenizer)
    if own is not None and not (random_weights and tokenizer is not None):
        _check_fingerprint(record, "--model", own)
    if tokenizer is not None or own is not None:
        return tokenizer or own
    if not record.fingerprint:
        return None
    made_with = Path(record.path)
    unchanged = (made_with / TOKENIZER_FILE).is_file() and tokenizer_fingerprint(made_with) == record.fingerprint
    return made_with if unchanged else None


def check_stage(data: TrainDataOptions, manifest: Manifest) -> None:
    """SP208 for flags of the other stage, SP203 for what the data were not made with."""
    if data.stage is not None and data.stage != manifest.kind:
        what = "pretraining text" if manifest.kind == "pretrain" else "samples with labels"
        raise ConfigError(
            "SP208",
            f"--stage {data.stage} was given, but the data are {what}",
            help=f"leave it out, or give --stage {manifest.kind}",
        )
    made_with = manifest.recipe.get("prompt_type")
    if data.prompt_type is not None and made_with not in (None, data.prompt_type):
        raise ConfigError(
            "SP203",
            f"--prompt-type {data.prompt_type} was given, but the data were made with {made_with}",
            help="leave it out, or preprocess the data again with this template",
        )
    if data.pack and not manifest.packed:
        raise ConfigError("SP203", "--pack was given, but the data are not packed", help="pack them: seqpack pack")
    if manifest.kind == "sft" and data.eod_mask_loss is not None:
        raise ConfigError("SP208", "--eod-mask-loss is for pretraining text", help="leave it out: labels say it")


def check_output(save: Path, *, overwrite: bool) -> None:
    """SP004 if another run is in ``--save``."""
    results = [save / folder for folder in RESULT_FOLDERS]
    for found in (*results, save / METRICS_FILE, *save.glob("step-*")):
        if found.exists() and not overwrite:
            raise ConfigError(
                "SP004", f"{found} exists already", help="choose another --save, or give --overwrite to replace it"
            )


def _check_fingerprint(record: TokenizerRecord, flag: str, directory: Path) -> None:
    fingerprint = tokenizer_fingerprint(directory)
    if not record.fingerprint:  # a set of another program, which does not say; the header does
        return
    if fingerprint != record.fingerprint:
        raise ConfigError(
            "SP302",
            f"the tokenizer of {flag} {directory} ({fingerprint[:12]}) is not the one the data was made with: "
            f"{record.path} ({record.fingerprint[:12]})",
            help="its token numbers mean other text: preprocess the data with the tokenizer of the model",
        )
