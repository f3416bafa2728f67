"""``--compat mindspeed``: which of MindSpeed-LLM's rules a run follows."""

from __future__ import annotations

from seqpack.core.errors import ConfigError
from seqpack.handlers.detect import ALPACA, TEXT
from seqpack.handlers.mindspeed import MindSpeedAlpacaHandler
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, PackOptions
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.mindspeed import SHORT_SIDE_TEMPLATES, DocumentRules, Rules, TurnRule
from seqpack.pipeline.samples import SampleSource, require_end_token
from seqpack.text.layout import Renderer
from seqpack.text.tokenizer import Tokenizer


def use_mindspeed_rules(source: SampleSource, length: LengthOptions, pack: PackOptions, compat: CompatOptions) -> None:
    """Make ``source`` read, cut and pack as MindSpeed-LLM does; ConfigError for a handler whose rules are not known."""
    if source.recipe["handler"] != ALPACA:
        raise _unknown(f"rows of {source.recipe['handler']!r}", covered=f"{ALPACA} and {TEXT}")
    short_side = source.recipe["prompt_type"] in SHORT_SIDE_TEMPLATES
    source.input = source.input.read_by(MindSpeedAlpacaHandler(source.recipe["map_keys"]))
    source.renderer = Renderer(source.template, None)  # they let texts of the data become control tokens
    source.mindspeed = Rules(
        seq_length=length.seq_length,
        packs=pack.packs,
        neat_pack=pack.neat_pack,
        turn_rule=TurnRule.SHORT_SIDE_FIRST if short_side else TurnRule.PROPORTIONAL,
        end_token_id=require_end_token(source.tokenizer, source.eos_token_id) if length.append_eod else None,
        n_subs=compat.n_subs or 1,
    )


def document_rules(
    input: ResolvedInput, tokenizer: Tokenizer, length: LengthOptions, compat: CompatOptions
) -> DocumentRules:
    """MindSpeed-LLM's rules for pretraining text; ConfigError for a handler or flag whose rules are not known."""
    if input.handler != TEXT:
        raise _unknown(f"rows of {input.handler!r}", covered=f"{ALPACA} and {TEXT}")
    if (compat.n_subs or 1) > 1:
        raise _unknown("--n-subs with pretraining text", covered="it with samples")
    return DocumentRules(
        seq_length=length.seq_length,
        end_token_id=require_end_token(tokenizer, tokenizer.eos_token_id) if length.append_eod else None,
        filler_id=tokenizer.num_tokens,
        multiple_of=compat.pad_to_multiple_of or 1,
    )


def _unknown(what: str, *, covered: str) -> ConfigError:
    return ConfigError(
        "SP027",
        f"--compat mindspeed does not know how MindSpeed-LLM treats {what}",
        help=f"it covers {covered}; leave --compat out to make the data by seqpack's own rules",
    )
