"""What MindSpeed-LLM does to the same rows, for ``--compat mindspeed``: its cuts, its packs, its document index.

Sources: ``mindspeed_llm/tasks/preprocess/{data_handler,templates,utils}.py`` at c77308a1. Every rule here loses or
wastes something that seqpack by itself does not; they exist so that files can be reproduced byte for byte.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan
from seqpack.core.types import IGNORE_INDEX, Span, TokenizedSample, running_sum

NO_LIMIT = 100_000
"""What stands for the length where ``--seq-length`` is not given."""


class TurnRule(Enum):
    """How a turn shares what is left of the length between its prompt and its reply."""

    PROPORTIONAL = "proportional"
    """The base class of their templates."""
    SHORT_SIDE_FIRST = "short side first"
    """Their LFDefaultTemplate and ReasoningTemplate: a side that needs less than half is kept whole."""


SHORT_SIDE_TEMPLATES = frozenset({"qwen_lf", "qwen3", "glm4_moe", "gpt_oss", "magistral"})
"""Templates of those two classes, by name."""


@dataclass(frozen=True, slots=True)
class Rules:
    """One mode of theirs. ``end_token_id`` is what ``--append-eod`` adds, None without that flag."""

    seq_length: int | None
    packs: bool
    neat_pack: bool
    turn_rule: TurnRule
    end_token_id: int | None = None
    n_subs: int = 1

    def fit(self, ids: Sequence[Sequence[list[int]]], samples: Sequence[Sequence[Span]]) -> list[FittedSample]:
        """Cut each sample as they do; ``ids`` are those of each span."""
        return [self._fit_one(spans, pieces) for spans, pieces in zip(samples, ids, strict=True)]

    def plan(self, lengths: NDArray[np.integer], is_kept: NDArray[np.bool_]) -> PackPlan:
        """Their packs of the samples that were kept; ``is_kept`` covers all rows, which ``--n-subs`` divides."""
        assert self.seq_length is not None
        starts = running_sum(np.array(subset_sizes(len(is_kept), self.n_subs), np.int64))
        kept = np.diff(running_sum(is_kept)[starts])
        return knapsack_plan(lengths, seq_length=self.seq_length, subsets=kept.tolist())

    def _fit_one(self, spans: Sequence[Span], pieces: Sequence[list[int]]) -> FittedSample:
        turns = cut_turns(
            group_turns(spans, pieces), self.seq_length, rule=self.turn_rule, neat_pack=self.neat_pack and self.packs
        )
        input_ids = [token for turn in turns for token in (*turn.prompt, *turn.reply)]
        labels = [token for turn in turns for token in (*turn.prompt_labels, *turn.reply)]
        original = sum(len(piece) for span, piece in zip(spans, pieces, strict=True) if not span.elided)
        if spans and spans[-1].elided:  # the end of the sample, written after the cut
            input_ids += pieces[-1]
            labels += pieces[-1]
            original += len(pieces[-1])
        if self.end_token_id is not None:  # after the cut, and even if the sample ends with that token already
            input_ids.append(self.end_token_id)
            labels.append(self.end_token_id)
            original += 1
        is_kept = True
        if self.seq_length is not None:
            if self.packs and self.neat_pack:
                input_ids, labels = input_ids[: self.seq_length - 1], labels[: self.seq_length - 1]
            else:
                is_kept = len(input_ids) < self.seq_length
        tokens = TokenizedSample(np.array(input_ids, np.int32), np.array(labels, np.int32))
        return FittedSample(tokens, original, is_kept)


TOO_LONG = "as long as --seq-length, which MindSpeed-LLM drops"
ROWS_PER_MARK = 50
"""So many rows at a time are marked for dropping in pretraining text."""


@dataclass(frozen=True, slots=True)
class DocumentRules:
    """Their rules for pretraining text. ``end_token_id`` is what ``--append-eod`` adds, None without that flag.

    ``filler_id``, their vocabulary size, fills documents up to ``multiple_of``; there is always at least one, counting
    the end token.
    """

    seq_length: int | None
    end_token_id: int | None
    filler_id: int
    multiple_of: int = 1

    def finish(self, ids: Sequence[int]) -> list[int]:
        """A document's ids with what is put behind them, the end token even if that is how it ends already."""
        end = [] if self.end_token_id is None else [self.end_token_id]
        num_filler = 0
        if self.multiple_of > 1:
            num_filler = (len(ids) // self.multiple_of + 1) * self.multiple_of - len(ids) - len(end)
        return [*ids, *[self.filler_id] * num_filler, *end]

    def fit(self, rows: Sequence[Sequence[list[int]]]) -> list[list[list[int] | None]]:
        """At most ``ROWS_PER_MARK`` rows with None for documents that are dropped; an empty one is not written at all.

        What is marked is the place among the documents of a column that are not empty. So with several columns, one of
        which has an empty text, a document may be dropped for the length of another row's.
        """
        columns = [[ids for ids in column if ids] for column in zip(*rows, strict=True)]
        limit = self.seq_length
        marked = {
            place for column in columns for place, ids in enumerate(column) if limit is not None and len(ids) >= limit
        }
        kept = [iter([None if place in marked else ids for place, ids in enumerate(column)]) for column in columns]
        return [[next(kept[place]) if ids else [] for place, ids in enumerate(row)] for row in rows]


@dataclass(frozen=True, slots=True)
class FittedSample:
    """A sample after their cuts; ``original_length`` is that before, and one that is not kept is too long for them."""

    tokens: TokenizedSample
    original_length: int
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: ids of the prompt with everything before the reply, ids and labels of the reply."""

    prompt: list[int]
    prompt_labels: list[int]
    reply: list[int]

    def cut(self, prompt: int, reply: int) -> Turn:
        return Turn(self.prompt[:prompt], self.prompt_labels[:prompt], self.reply[:reply])

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def group_turns(spans: Sequence[Span], pieces: Sequence[list[int]]) -> list[Turn]:
    """Ids of the spans by turn: what is trained on is the reply, everything else of the turn stands before it.

    An elided end token becomes the label of the next turn's first token; that at the end of a sample is left out.
    """
    turns: dict[int, Turn] = {}
    end: list[int] = []
    for span, ids in zip(spans, pieces, strict=True):
        turn = turns.setdefault(span.turn, Turn([], [], []))
        if span.elided:
            end = ids
        elif span.train:
            turn.reply.extend(ids)
        elif ids:
            turn.prompt.extend(ids)
            turn.prompt_labels.extend([*end, *[IGNORE_INDEX] * (len(ids) - len(end))])
            end = []
    return list(turns.values())


def cut_turns(turns: Sequence[Turn], seq_length: int | None, *, rule: TurnRule, neat_pack: bool) -> list[Turn]:
    """The first two of their three cuts; the ends of both texts go first, the end token with them.

    Each turn gets what earlier ones left of the length, and turns after that are dropped. Under neat-pack every turn is
    then cut again, to ``seq_length - 1`` on its own.
    """
    limit = NO_LIMIT if seq_length is None else seq_length
    if rule is TurnRule.SHORT_SIDE_FIRST:
        limit -= 1
    kept: list[Turn] = []
    used = 0
    for turn in turns:
        if used >= limit:
            break
        share = _proportional if rule is TurnRule.PROPORTIONAL else _short_side_first
        kept.append(turn.cut(*share(len(turn.prompt), len(turn.reply), limit - used)))
        used += len(kept[-1])
    if neat_pack and seq_length is not None:
        kept = [turn.cut(*_short_side_first(len(turn.prompt), len(turn.reply), seq_length - 1)) for turn in kept]
    return kept


def knapsack_plan(lengths: NDArray[np.integer], *, seq_length: int, subsets: Sequence[int]) -> PackPlan:
    """Their packs: fill each with the longest sample that still fits ``seq_length - 1``, of equals the last one first.

    ``subsets`` are numbers of consecutive samples that are packed apart from each other (``--n-subs``).
    """
    packs: list[list[int]] = []
    first = 0
    for size in subsets:
        packs += _knapsack(lengths[first : first + size], seq_length - 1, first)
        first += size
    assert first == len(lengths)
    return PackPlan.from_packs(packs, lengths, seq_length=seq_length)


def subset_sizes(num_rows: int, n_subs: int) -> list[int]:
    """Rows of each ``--n-subs`` subset: ``num_rows // n_subs``, and one more subset for what is left over."""
    size = num_rows // n_subs
    sizes = [size] * (num_rows // size)
    return [*sizes, num_rows % size] if num_rows % size else sizes


def document_index(is_kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``document_indices`` of an unpacked set: a row that was dropped still ends a document, of no sequences."""
    return np.concatenate([[0], np.cumsum(is_kept)]).astype(np.int64)


def _proportional(prompt: int, reply: int, limit: int) -> tuple[int, int]:
    # Divided first and multiplied then, as they do: the rounding of that may take one token of a turn that fits.
    max_reply = max(int(limit * (reply / (prompt + reply))), 1) if prompt + reply else 1
    return limit - min(max_reply, reply), max_reply


def _short_side_first(prompt: int, reply: int, limit: int) -> tuple[int, int]:
    if 2 * reply < limit:
        max_reply = limit
    elif 2 * prompt < limit:
        max_reply = limit - prompt
    else:
        max_reply = int(limit * (reply / (prompt + reply)))
    kept = min(max_reply, reply)
    return max(limit - kept, 0), kept


def _knapsack(lengths: NDArray[np.integer], capacity: int, first: int) -> list[list[int]]:
    by_length: dict[int, list[int]] = {}
    for sample, length in enumerate(lengths.tolist(), first):
        by_length.setdefault(length, []).append(sample)
    available = sorted(by_length)
    packs = []
    while available:
        pack, room = [], capacity
        while (place := bisect_right(available, room) - 1) >= 0:
            length = available[place]
            pack.append(by_length[length].pop())
            room -= length
            if not by_length[length]:
                del available[place]
        assert pack, "a sample longer than the capacity"
        packs.append(pack)
    return packs
