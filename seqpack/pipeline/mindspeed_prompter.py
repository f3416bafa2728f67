"""MindSpeed-LLM's handlers without a template: one text, encoded as a whole, labels behind its last heading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seqpack.core.types import IGNORE_INDEX, Sample, Span, TokenizedSample
from seqpack.handlers.mindspeed_text import prompter_text
from seqpack.pipeline.mindspeed import FittedSample, Rules


class PrompterTemplate:
    """Two spans: the whole text, and its beginning up to the last reply, whose tokens are only counted."""

    def spans(self, sample: Sample) -> Iterator[Span]:
        text, beginning = prompter_text(sample.messages)
        yield Span(text, True, 0)
        yield Span(beginning, False, 1)


@dataclass(frozen=True, slots=True)
class PrompterRules(Rules):
    """Nothing is cut by turns; what reaches the length is dropped, or cut under neat-pack."""

    def _fit_one(self, spans: Sequence[Span], pieces: Sequence[list[int]]) -> FittedSample:
        input_ids, beginning = list(pieces[0]), pieces[1]
        if self.end_token_id is not None:
            input_ids.append(self.end_token_id)
        labels = [*[IGNORE_INDEX] * len(beginning), *input_ids[len(beginning) :]][: len(input_ids)]
        original, is_kept = len(input_ids), True
        if self.seq_length is not None and len(input_ids) >= self.seq_length:
            is_kept = self.packs and self.neat_pack
            input_ids, labels = input_ids[: self.seq_length - 1], labels[: self.seq_length - 1]
        tokens = TokenizedSample(np.array(input_ids, np.int32), np.array(labels, np.int32))
        return FittedSample(tokens, original, is_kept)
