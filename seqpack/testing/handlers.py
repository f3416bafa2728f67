"""What every dataset handler must do."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from seqpack.core.errors import RejectError
from seqpack.core.types import Dialogue, Message, Preference, Question, Role, Sample, TextSample
from seqpack.hooks.component import Component
from seqpack.hooks.specs import DatasetHandler, HandlerOptions, dialogues_of, make_handler


class HandlerContract:
    """Subclass it and state ``target``, ``records`` (usable ones) and ``unusable`` (each to be rejected)."""

    target = ""
    """``package.module:Class``, as in the Component."""
    columns: Mapping[str, str | None] = {}
    """What ``--map-keys`` would give."""
    json_keys: tuple[str, ...] = ()
    """What ``--json-keys`` would give."""
    additional_keys: tuple[str, ...] = ()
    """What ``--dataset-additional-keys`` would give."""
    records: Sequence[Mapping[str, Any]] = ()
    unusable: Sequence[Mapping[str, Any]] = ()

    def make(self) -> DatasetHandler:
        """A new handler; override it if ``target`` and ``columns`` do not say enough."""
        component: Component[DatasetHandler] = Component("under-test", self.target, "")
        options = HandlerOptions(columns=self.columns, json_keys=self.json_keys, additional_keys=self.additional_keys)
        return make_handler(component, options)

    def test_there_is_something_to_test(self) -> None:
        assert self.records, "state records = (...): rows the handler can use"
        assert self.unusable, "state unusable = (...): rows it must reject"

    def test_a_usable_record_gives_samples_with_messages(self) -> None:
        for record in self.records:
            handler = self.make()
            samples = list(handler(record))
            assert samples, f"no sample from {record}"
            for sample in samples:
                if keys := getattr(handler, "text_keys", ()):
                    _check_texts(sample, keys, record)
                elif kind := getattr(handler, "kind", ""):
                    _check_kind(sample, kind, handler, record)
                else:
                    _check_messages(sample, record)

    def test_an_unusable_record_is_rejected_with_a_reason(self) -> None:
        for record in self.unusable:
            assert _rejection(self.make(), record).reason, f"no reason for rejecting {record}"

    def test_a_record_of_other_data_is_a_missing_column(self) -> None:
        # On the first row of a file this stops the run and names the columns, instead of rejecting every row.
        assert _rejection(self.make(), {}).missing_column, "RejectError(..., missing_column=True) is due for {}"

    def test_a_handler_remembers_nothing(self) -> None:
        handler = self.make()
        first = [list(handler(record)) for record in self.records]
        again = [list(handler(record)) for record in reversed(self.records)]
        assert first == again[::-1], "the same record gave other samples the second time"

    def test_dialogues_are_what_calling_gives(self) -> None:
        handler = self.make()
        records = [*self.records, *self.unusable, {}]
        for record, dialogue in zip(records, find_dialogues(handler, records), strict=True):
            if dialogue is not None:
                roles, contents = dialogue
                assert len(roles) == len(contents), f"{len(roles)} roles and {len(contents)} texts in {record}"
                expected = [Sample(tuple(map(Message, roles, contents)))]
                assert list(handler(record)) == expected, f"dialogues({record}) is not what calling gives"

    def test_a_record_is_left_as_it_was(self) -> None:
        for record in self.records:
            before = copy.deepcopy(record)
            list(self.make()(record))
            assert record == before, "the handler changed its record"


def find_dialogues(handler: DatasetHandler, records: Sequence[Mapping[str, Any]]) -> Sequence[Dialogue | None]:
    """What ``dialogues`` says of the records; None for all if the handler has no such method of its own."""
    dialogues = dialogues_of(handler)
    return [None] * len(records) if dialogues is None else dialogues(records)


def _check_texts(sample: Any, keys: Sequence[str], record: Mapping[str, Any]) -> None:
    assert isinstance(sample, TextSample), f"{sample!r} is not a TextSample, but there are text_keys"
    assert len(sample.texts) == len(keys), f"{len(sample.texts)} texts for the keys {keys}"
    assert all(isinstance(text, str) for text in sample.texts), f"not text: {sample.texts}"
    assert any(sample.texts), f"no text in {record}"


def _check_kind(sample: Any, kind: str, handler: Any, record: Mapping[str, Any]) -> None:
    assert kind in ("pairwise", "prompt"), f"unknown kind {kind!r}"
    if kind == "pairwise":
        assert isinstance(sample, Preference), f"{sample!r} is not a Preference"
        assert sample.chosen.messages[:-1] == sample.rejected.messages[:-1], f"two conversations in {record}"
        for answered in (sample.chosen, sample.rejected):
            _check_messages(answered, record)
    else:
        assert isinstance(sample, Question), f"{sample!r} is not a Question"
        assert sample.sample.messages[-1].role in ("user", "observation"), f"nothing is asked in {record}"
        columns = len(handler.column_names)
        assert columns == 2 + len(sample.texts), f"{len(sample.texts)} texts for {columns} columns"


def _check_messages(sample: Any, record: Mapping[str, Any]) -> None:
    assert isinstance(sample, Sample), f"{sample!r} is not a Sample"
    assert any(message.role in ("assistant", "function") for message in sample.messages), (
        f"nothing to train on in {record}"
    )
    for message in sample.messages:
        assert message.role in get_args(Role), f"unknown role {message.role!r}"
        assert isinstance(message.content, str), f"{message.content!r} is not text"


def _rejection(handler: DatasetHandler, record: Mapping[str, Any]) -> RejectError:
    try:
        samples = list(handler(record))
    except RejectError as error:
        return error
    raise AssertionError(f"{record} should raise RejectError, but gave {samples}")
