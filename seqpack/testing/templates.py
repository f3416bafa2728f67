"""What every prompt template must do."""

from __future__ import annotations

from seqpack.core.types import Message, Sample, Span
from seqpack.hooks.component import Component
from seqpack.hooks.specs import PromptTemplate
from seqpack.text.catalog import template_text
from seqpack.text.template_file import parse_template

SYSTEM = Message("system", "SYSTEM TEXT")
FIRST = (Message("user", "FIRST QUESTION"), Message("assistant", "FIRST REPLY"))
SECOND = (Message("user", "SECOND QUESTION"), Message("assistant", "SECOND REPLY"))
CONVERSATION = Sample((SYSTEM, *FIRST, *SECOND))


class TemplateContract:
    """Subclass it and state ``target`` and ``end_of_turn``, the token a reply ends with."""

    target = ""
    """``package:file.yaml``, the path of a file, or ``package.module:Class``, as in the Component."""
    end_of_turn: str | None = None
    """``""`` for a template that has none: models trained with it do not learn to stop."""
    eos_token = "<eos>"
    """What a file's ``{{eos}}`` is filled in with."""
    bos_token = "<bos>"
    """What a file's ``{{bos}}`` is filled in with."""

    def make(self) -> PromptTemplate:
        """A new template; override it if ``target`` does not say enough."""
        component: Component[PromptTemplate] = Component("under-test", self.target, "")
        text = template_text(component)
        if text is not None:
            return parse_template(text).with_tokens(bos=self.bos_token, eos=self.eos_token)
        template: PromptTemplate = component.load()()
        return template

    def spans(self, *messages: Message) -> list[Span]:
        return list(self.make().spans(Sample(messages)))

    def trained(self, *messages: Message) -> dict[int, str]:
        """What is trained on, by turn; an end token that stands for the label of the next token is in it."""
        texts: dict[int, str] = {}
        for span in self.spans(*messages):
            if span.train:
                texts[span.turn] = texts.get(span.turn, "") + span.text
        return texts

    def test_there_is_something_to_test(self) -> None:
        assert self.end_of_turn is not None, "state end_of_turn: the token a reply ends with"

    def test_every_reply_is_trained_on_up_to_its_end(self) -> None:
        replies = [message.content for message in CONVERSATION.messages if message.role == "assistant"]
        trained = list(self.trained(*CONVERSATION.messages).values())
        for reply in replies:
            (text,) = [text for text in trained if reply in text] or [""]
            assert text, f"{reply!r} is not trained on; trained: {trained}"
            assert text.rstrip().endswith(self.end_of_turn or ""), f"{text!r} does not end with {self.end_of_turn!r}"

    def test_nothing_else_is_trained_on(self) -> None:
        for span in self.spans(*CONVERSATION.messages):
            if span.train:
                assert "QUESTION" not in span.text and SYSTEM.content not in span.text, f"trained on: {span.text!r}"

    def test_every_message_is_there_once_and_in_order(self) -> None:
        text = "".join(span.text for span in self.spans(*CONVERSATION.messages))
        places = [text.find(message.content) for message in CONVERSATION.messages]
        assert -1 not in places, f"a message is missing from {text!r}"
        assert places == sorted(places), f"the messages changed places in {text!r}"
        assert all(text.count(message.content) == 1 for message in CONVERSATION.messages), (
            f"a message is twice: {text!r}"
        )

    def test_the_range_of_the_data_is_marked(self) -> None:
        # Text of the data that looks like control tokens is kept apart by these ranges.
        spans = self.spans(*CONVERSATION.messages)
        marked = [span.text[slice(*part)] for span in spans for part in span.data_ranges]
        assert [text for text in marked if text] == [message.content for message in CONVERSATION.messages]

    def test_what_may_be_cut_is_marked(self) -> None:
        # Truncation shortens these ranges and nothing else: without them a long sample cannot be cut, only dropped.
        marked = [span.text[slice(*span.content)] for span in self.spans(*CONVERSATION.messages) if span.content]
        assert [text for text in marked if text != SYSTEM.content] == [
            message.content for message in CONVERSATION.messages if message.role != "system"
        ]

    def test_turns_are_numbered_from_0(self) -> None:
        turns = [span.turn for span in self.spans(*CONVERSATION.messages)]
        assert turns == sorted(turns) and set(turns) == {0, 1}, f"turns of a conversation with two exchanges: {turns}"
        texts = self.trained(*CONVERSATION.messages)
        assert [("FIRST REPLY" in text, "SECOND REPLY" in text) for text in texts.values()] == [
            (True, False),
            (False, True),
        ], f"what is trained on in each turn: {texts}"

    def test_a_message_may_switch_training_off(self) -> None:
        reply = Message("assistant", "FIRST REPLY", train=False)
        trained = self.trained(FIRST[0], reply, *SECOND)
        assert list(trained) == [1] and "SECOND REPLY" in trained[1], f"trained on: {trained}"

    def test_the_first_exchange_does_not_depend_on_the_next(self) -> None:
        one, two = self.spans(SYSTEM, *FIRST), self.spans(*CONVERSATION.messages)
        assert two[: len(one)] == one

    def test_a_template_remembers_nothing(self) -> None:
        template = self.make()
        assert list(template.spans(CONVERSATION)) == list(template.spans(CONVERSATION))

    def test_no_span_is_empty(self) -> None:
        assert all(span.text for span in self.spans(*CONVERSATION.messages))
