"""Which messages are trained on: ``--train-on``, and the checks that nothing is trained on by mistake or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from seqpack.core.errors import RejectError
from seqpack.core.types import IGNORE_INDEX, Message, Sample, TokenizedSample
from seqpack.hooks.specs import PromptTemplate
from seqpack.text.encoder import SampleEncoder
from seqpack.text.plain import ControlText
from seqpack.text.tokenizer import Tokenizer
from seqpack.text.tools import calls_with_text

TrainOn = Literal["assistant", "last", "all"]
REPLIES = ("assistant", "function")


def choose(sample: Sample, train_on: TrainOn) -> Sample:
    """The sample with ``train`` set on its messages; a message that has it set already keeps it."""
    if train_on == "assistant":
        return sample
    last = max(_endings(sample.messages), default=-1)
    last_turn = {last, last - 1} if last and calls_with_text(sample.messages, last) else {last}

    def chosen(index: int, message: Message) -> Message:
        if message.train is not None:
            return message
        if train_on == "all":
            return message._replace(train=True)
        return message._replace(train=False) if message.role in REPLIES and index not in last_turn else message

    messages = tuple(chosen(index, message) for index, message in enumerate(sample.messages))
    return sample._replace(messages=messages)


def _endings(messages: Sequence[Message]) -> list[int]:
    """Replies that end a turn of the assistant."""
    return [
        index
        for index, message in enumerate(messages)
        if message.role in REPLIES and not (index + 1 < len(messages) and calls_with_text(messages, index + 1))
    ]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, under a diagnostic code."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """Looks at some samples as the model will see them; meant for the first of a run."""

    template: PromptTemplate
    tokenizer: Tokenizer
    control: ControlText
    encoder: SampleEncoder
    eos_token_id: int | None

    def findings(self, samples: Sequence[Sample]) -> list[Finding]:
        """The first finding of each kind."""
        found: dict[str, Finding] = {}
        for sample in samples:
            for finding in (self._prefix(sample), self._generation(sample), self._terminator(sample)):
                if finding is not None:
                    found.setdefault(finding.code, finding)
        return [found[code] for code in sorted(found)]

    def _tokens(self, sample: Sample) -> TokenizedSample:
        spans = self.control.guard(self.template.spans(sample))
        return self.encoder.encode([spans])[0]

    def _prefix(self, sample: Sample) -> Finding | None:
        """SP120: the beginning of a conversation reads otherwise once it goes on."""
        replies = _endings(sample.messages)
        whole = self._tokens(sample).input_ids.tolist()
        for number, index in enumerate(replies[:-1]):
            try:
                part = self._tokens(sample._replace(messages=sample.messages[: index + 1])).input_ids.tolist()
            except Exception:  # a plugin's template may raise anything for half a conversation, and need not take one
                continue
            # the last token may stand there only because the text ends (efficient_eos)
            place = _first_difference(part[:-1], whole)
            if place is not None:
                return Finding("SP120", self._difference(sample, number, place, part, whole))
        return None

    def _difference(self, sample: Sample, number: int, place: int, part: list[int], whole: list[int]) -> str:
        seen = repr(self.tokenizer.decode(whole[place : place + 1]))
        return (
            f"{sample.key}: up to reply {number + 1} the text is another one when the conversation goes on; "
            f"token {place} is {self.tokenizer.decode(part[place : place + 1])!r} without what follows, {seen} with it"
        )

    def _generation(self, sample: Sample) -> Finding | None:
        """SP120: what stands before a reply is not what the model will see when it is asked for one."""
        prompt_for = getattr(self.template, "generation_prompt", None)
        if prompt_for is None:  # in a template of fixed text both are the same by construction
            return None
        text = "".join(span.text for span in self.template.spans(sample))
        for number, ending in enumerate(_endings(sample.messages)):
            index = ending - calls_with_text(sample.messages, ending)
            try:
                prompt = prompt_for(sample._replace(messages=sample.messages[:index]))
            except RejectError:  # a template need not take a conversation that breaks off here
                continue
            if not text.startswith(prompt):
                asked, seen = self.tokenizer.encode([prompt, text])
                place = _first_difference(asked, seen) or 0
                ours, theirs = (repr(self.tokenizer.decode(ids[place : place + 1])) for ids in (asked, seen))
                return Finding(
                    "SP120",
                    f"{sample.key}: reply {number + 1} is not trained on after what asks for it: token {place} is "
                    f"{ours} when the model is asked, {theirs} in training",
                )
        return None

    def _terminator(self, sample: Sample) -> Finding | None:
        """SP121: after some reply the model does not learn to stop."""
        tokens = self._tokens(sample)
        ends = {*self.tokenizer.added_tokens.values(), self.eos_token_id}
        for is_trained, run in groupby(tokens.labels.tolist(), key=lambda label: label != IGNORE_INDEX):
            if not is_trained:
                continue
            labels = list(run)
            # decoding loads the tokenizer a second time where another engine encodes, so what is usual is tried first
            while labels[-1] not in ends and len(labels) > 1 and not self.tokenizer.decode(labels[-1:]).strip():
                labels.pop()
            if labels[-1] not in ends:
                last = self.tokenizer.decode(labels[-1:])
                return Finding("SP121", f"{sample.key}: a reply is trained on up to {last!r}, which is no end token")
        return None


def _first_difference(part: list[int], whole: list[int]) -> int | None:
    pairs = zip(part, whole, strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
