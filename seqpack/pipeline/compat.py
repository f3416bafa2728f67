"""``--compat mindspeed``: which of MindSpeed-LLM's rules a run follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from seqpack.core.errors import ConfigError
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PromptTemplate
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, PackOptions, TextOptions
from seqpack.pipeline.columns import ColumnMaker
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.mindspeed import DocumentRules, Rules, TurnRule
from seqpack.pipeline.mindspeed_columns import MindSpeedPairs, MindSpeedPrompts
from seqpack.pipeline.mindspeed_input import ALPACA_TEXT, PPO, PROMPTERS
from seqpack.pipeline.mindspeed_prompter import PrompterRules, PrompterTemplate
from seqpack.pipeline.samples import SampleSource, require_end_token
from seqpack.text.catalog import CHAT_TEMPLATE, find_users, template_text
from seqpack.text.encoder import SampleEncoder
from seqpack.text.layout import Renderer
from seqpack.text.mindspeed_entry import DEEPSEEK4, REASONING, entry_of
from seqpack.text.mindspeed_template import DocumentTokenizer, MindSpeedTemplate, open_tokenizer
from seqpack.text.plain import ControlText
from seqpack.text.template import TextTemplate
from seqpack.text.template_file import parse_template
from seqpack.text.tokenizer import Tokenizer

TEMPLATE_FLAGS = ("prompt_type", "prompt_type_path", "enable_thinking")
OUR_FLAGS = ("train_on", "train_on_prompt", "mask_history")


@dataclass(frozen=True, slots=True)
class Opened:
    """Template and tokenizer as MindSpeed-LLM uses them. ``note`` is a sentence worth showing, or empty."""

    name: str
    template: PromptTemplate
    text: str | None
    tokenizer: Tokenizer
    eos_token_id: int | None
    turn_rule: TurnRule
    note: str = ""


def open_mindspeed_source(
    input: ResolvedInput, text: TextOptions, length: LengthOptions, pack: PackOptions, compat: CompatOptions
) -> SampleSource:
    """What reads, renders, cuts and packs as MindSpeed-LLM does; ConfigError for flags that it does not have."""
    refuse_idle(text, OUR_FLAGS, because="MindSpeed-LLM trains on every reply", help="leave --compat out for that")
    opened = open_mindspeed_template(text, input.handler)
    recipe: dict[str, Any] = {
        "prompt_type": opened.name,
        "template": opened.text,
        "enable_thinking": text.enable_thinking,
        "train_on": text.trained,
        "allow_special_tokens": True,  # they let texts of the data become control tokens
    }
    if input.handler in PROMPTERS and pack.packs and not opened.tokenizer.has_pad_token:
        raise ConfigError(
            "SP016",
            f"--compat mindspeed: {text.tokenizer} names no pad token, at which MindSpeed-LLM stops",
            help="leave out --pack, or --compat",
        )
    rules = PrompterRules if input.handler in PROMPTERS else Rules
    control = ControlText(opened.tokenizer)
    return SampleSource(
        input,
        opened.template,
        opened.tokenizer,
        opened.eos_token_id,
        input.recipe | recipe,
        control,
        Renderer(opened.template, None),
        SampleEncoder(opened.tokenizer, control),
        note=opened.note,
        mindspeed=rules(
            seq_length=length.seq_length,
            packs=pack.packs,
            neat_pack=pack.neat_pack,
            turn_rule=opened.turn_rule,
            end_token_id=require_end_token(opened.tokenizer, opened.eos_token_id) if length.append_eod else None,
            n_subs=compat.n_subs or 1,
        ),
    )


def open_mindspeed_template(text: TextOptions, handler: str) -> Opened:
    """Template and tokenizer for rows of this handler. ConfigError for a template that MindSpeed-LLM does not have."""
    if handler in PROMPTERS:
        refuse_idle(text, TEMPLATE_FLAGS, because=f"{handler} has a text of its own", help="leave it out")
        plain = DocumentTokenizer(text.tokenizer)
        return Opened("", PrompterTemplate(), None, plain, plain.eos_token_id, TurnRule.PROPORTIONAL)
    mine = find_users(text).get(text.prompt_type)
    ours: TextTemplate | None = None
    source = None if mine is None else mine.text
    if mine is None and text.prompt_type != CHAT_TEMPLATE:
        component = plugin_host().template(text.prompt_type)
        source = template_text(component)
        if component.plugin == "seqpack" and source is not None:
            ours = parse_template(source)
    entry = entry_of(text, ours)
    tokenizer, eos_token_id, fitted = open_tokenizer(text.tokenizer, entry)
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""
    if entry.kind == DEEPSEEK4 and ours is not None:
        ours = replace(ours.with_tokens(bos=bos, eos=eos), thinking=text.thinking)
    rule = TurnRule.SHORT_SIDE_FIRST if entry.is_short_side_first else TurnRule.PROPORTIONAL
    notes = []
    if tokenizer.new_tokens:
        new = ", ".join(f"{token} ({tokenizer.token_id(token)})" for token in tokenizer.new_tokens)
        notes.append(
            f"tokens that the tokenizer lacks were added, as in MindSpeed-LLM; the model must have them: {new}"
        )
    if fitted != entry:
        notes.append(f"tokens that the tokenizer lacks were written as {tokenizer.unk_token}, as in MindSpeed-LLM")
    if text.thinking is not None and entry.kind not in (REASONING, DEEPSEEK4):
        notes.append(f"--enable-thinking has no effect: template {entry.name!r} has no thoughts")
    template = MindSpeedTemplate(fitted, bos, eos, text.thinking, ours)
    return Opened(entry.name, template, source, tokenizer, eos_token_id, rule, "; ".join(notes))


def mindspeed_maker(source: SampleSource) -> ColumnMaker:
    """What makes the columns of preference pairs and prompts."""
    if source.input.kind == "pairwise":
        return MindSpeedPairs(source)
    return MindSpeedPrompts(source, keeps_replies=source.input.handler != PPO)


def document_rules(
    input: ResolvedInput, tokenizer: Tokenizer, length: LengthOptions, compat: CompatOptions
) -> DocumentRules:
    """MindSpeed-LLM's rules for pretraining text."""
    multiple_of = compat.pad_to_multiple_of or 1
    return DocumentRules(
        seq_length=length.seq_length,
        end_token_id=require_end_token(tokenizer, tokenizer.eos_token_id) if length.append_eod else None,
        filler_id=tokenizer.num_tokens,
        multiple_of=1 if input.handler == ALPACA_TEXT else multiple_of,
        n_subs=compat.n_subs or 1,
    )
