"""Preference pairs and prompts as MindSpeed-LLM writes them, for ``--compat mindspeed`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqpack.core.types import IGNORE_INDEX, Preference, Question, Span
from seqpack.pipeline.columns import ColumnRow, Rendered
from seqpack.pipeline.mindspeed import Rules, Turn, cut_turns, group_turns
from seqpack.pipeline.samples import SampleSource
from seqpack.text.mindspeed_template import MindSpeedTemplate


@dataclass(frozen=True, slots=True)
class MindSpeedPairs:
    """Nothing is cut. The prompt is that of the chosen answer in both halves, end tokens of earlier turns left out."""

    source: SampleSource
    keeps_places: bool = True

    def render(self, item: Preference) -> Rendered:
        template = _template(self.source)
        prompt, chosen = template.last_turn(item.chosen)
        _, rejected = template.last_turn(item.rejected)
        end = [template.eos] if template.entry.efficient_eos else []
        return tuple([Span(text, False) for text in texts] for texts in (prompt, [*chosen, *end], [*rejected, *end]))

    def encode(self, batch: Sequence[Rendered]) -> list[ColumnRow]:
        rows = []
        for parts in _encoded(self.source, batch):
            prompt, *answers = ([token for piece in part for token in piece] for part in parts)
            values: list[list[int]] = []
            for answer in answers:
                values += [[*prompt, *answer], [*[IGNORE_INDEX] * len(prompt), *answer]]
            num_tokens = len(values[0]) + len(values[2])
            num_trained = sum(label != IGNORE_INDEX for labels in values[1::2] for label in labels[1:])
            rows.append(ColumnRow(tuple(values), num_tokens, num_trained, num_tokens))
        return rows


@dataclass(frozen=True, slots=True)
class MindSpeedPrompts:
    """The prompts of all turns, cut as those of samples; the replies between them only if ``keeps_replies``."""

    source: SampleSource
    keeps_replies: bool
    keeps_places: bool = True

    def render(self, item: Question) -> Rendered:
        spans = list(_template(self.source).spans(item.sample))
        return (spans, *([Span(text, False)] if text else [] for text in item.texts))

    def encode(self, batch: Sequence[Rendered]) -> list[ColumnRow]:
        rows = []
        for rendered, parts in zip(batch, _encoded(self.source, batch), strict=True):
            turns = group_turns(rendered[0], parts[0])
            kept = cut_turns(turns, self._rules.seq_length, rule=self._rules.turn_rule, neat_pack=False)
            prompt, whole = self._prompt(kept), self._prompt(turns)
            texts = [[token for piece in part for token in piece] for part in parts[1:]]
            extra = sum(map(len, texts))
            values = (prompt, [1] * len(prompt), *texts)
            rows.append(ColumnRow(values, len(prompt) + extra, 0, len(whole) + extra))
        return rows

    @property
    def _rules(self) -> Rules:
        assert self.source.mindspeed is not None
        return self.source.mindspeed

    def _prompt(self, turns: Sequence[Turn]) -> list[int]:
        ids: list[int] = []
        for number, turn in enumerate(turns, 1):
            ids += turn.prompt
            if self.keeps_replies and number < len(turns):
                ids += turn.reply
        return ids


def _template(source: SampleSource) -> MindSpeedTemplate:
    assert isinstance(source.template, MindSpeedTemplate)
    return source.template


def _encoded(source: SampleSource, batch: Sequence[Rendered]) -> Iterator[list[list[list[int]]]]:
    """The ids of every span of every part of each item."""
    parts = [spans for rendered in batch for spans in rendered]
    ids = iter(source.encoder.encode_spans(parts))
    for rendered in batch:
        yield [next(ids) for _ in rendered]
