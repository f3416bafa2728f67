"""The built-in components pass the suites that authors of plugins subclass, and the suites find what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis.errors import Flaky
from numpy.typing import NDArray

from seqpack.core.plan import PackPlan
from seqpack.core.types import Message, Sample, Span, TextSample
from seqpack.handlers.llamafactory import LlamaFactoryHandler
from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import DatasetHandler
from seqpack.testing import HandlerContract, StrategyContract, TemplateContract

ROW = {"instruction": "Say hello.", "input": "", "output": "Hello."}
TURNS = ({"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"})
MESSAGES = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 1})
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
TEMPLATES = {template.name: template.target for template in PluginHost([]).templates}


PAIR = {"instruction": "Say hello.", "input": "", "chosen": "Hello.", "rejected": "No."}


class TestAlpacaHandler(HandlerContract):
    target = "seqpack.handlers.alpaca:AlpacaHandler"
    records = (ROW, ROW | {"system": "Be kind.", "history": [["Hi", "Hi!"], ["And now?", "Now this."]]})
    unusable = (ROW | {"output": ""}, ROW | {"output": 3}, ROW | {"history": ["Hi"]}, {"output": "Hello."})


class TestAlpacaHandlerWithOtherColumns(HandlerContract):
    target = "seqpack.handlers.alpaca:AlpacaHandler"
    columns = {"prompt": "question", "query": None, "response": "answer"}  # noqa: RUF012
    records = ({"question": "Say hello.", "answer": "Hello."},)
    unusable = ({"question": "Say hello.", "answer": None},)


class TestGeneralInstructionHandler(HandlerContract):
    target = "seqpack.handlers.alpaca:GeneralInstructionHandler"
    records = (ROW, ROW | {"history": "not read"})
    unusable = (ROW | {"output": ""}, {"instruction": "Hi"})


class TestSharegptHandler(HandlerContract):
    target = "seqpack.handlers.sharegpt:SharegptHandler"
    records = ({"conversations": TURNS}, {"conversations": TURNS, "system": "Be kind.", "tools": "[]"})
    unusable = ({"conversations": TURNS[:1]}, {"conversations": "Hi"}, {"conversations": TURNS[::-1]})


class TestOpenAIHandler(HandlerContract):
    target = "seqpack.handlers.openai:OpenAIHandler"
    records = ({"messages": MESSAGES}, {"messages": [*MESSAGES, MESSAGES[0], CALL]})
    unusable = ({"messages": MESSAGES[:1]}, {"messages": [3]})


class TestLlamaFactoryHandler(HandlerContract):
    target = "seqpack.handlers.llamafactory:LlamaFactoryHandler"
    records = (ROW,)
    unusable = (ROW | {"output": ""},)

    def make(self) -> DatasetHandler:
        ((_, handler),) = LlamaFactoryHandler(Path(), {"plain": {"file_name": "plain.json"}}).datasets(["plain"])
        return handler


class TestAlpacaPairwiseHandler(HandlerContract):
    target = "seqpack.handlers.pairwise:AlpacaPairwiseHandler"
    records = (PAIR, PAIR | {"system": "Be kind.", "history": [["Hi", "Hi!"]]}, PAIR | {"chosen": ["Hello."]})
    unusable = (
        PAIR | {"chosen": ""},
        PAIR | {"rejected": ["a", "b"]},
        PAIR | {"rejected": PAIR["chosen"]},
        PAIR | {"instruction": ""},
    )


class TestSharegptPairwiseHandler(HandlerContract):
    target = "seqpack.handlers.pairwise:SharegptPairwiseHandler"
    records = ({"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "Go."}},)
    unusable = (
        {"conversations": TURNS, "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "Go."}},
        {"conversations": TURNS[:1], "chosen": TURNS[0], "rejected": TURNS[1]},
        {"conversations": TURNS[:1], "chosen": "Hello.", "rejected": "Go."},
    )


class TestAlpacaPromptHandler(HandlerContract):
    target = "seqpack.handlers.question:AlpacaPromptHandler"
    records = (ROW, {"instruction": "Hi"})
    unusable = (ROW | {"instruction": ""},)


class TestAlpacaQuestionHandler(HandlerContract):
    target = "seqpack.handlers.question:AlpacaQuestionHandler"
    additional_keys = ("labels", "level")
    records = (ROW | {"level": "easy"},)
    unusable = (ROW | {"level": ""}, ROW | {"level": "easy", "output": ""}, ROW)


class TestSharegptQuestionHandler(HandlerContract):
    target = "seqpack.handlers.question:SharegptQuestionHandler"
    additional_keys = ("labels",)
    records = ({"conversations": TURNS},)
    unusable = ({"conversations": TURNS[:1]},)


class TestGeneralPretrainHandler(HandlerContract):
    target = "seqpack.handlers.pretrain:GeneralPretrainHandler"
    json_keys = ("text", "title")
    records = ({"text": "Once upon a time", "title": None},)
    unusable = ({"text": "", "title": ""}, {"text": "Once"})


class TestAlpacaPretrainHandler(HandlerContract):
    target = "seqpack.handlers.pretrain:AlpacaPretrainHandler"
    records = (ROW,)
    unusable = (ROW | {"output": ""},)


class TestSharegptPretrainHandler(HandlerContract):
    target = "seqpack.handlers.pretrain:SharegptPretrainHandler"
    records = ({"conversations": TURNS},)
    unusable = ({"conversations": []}, {"conversations": [{"from": "human"}]})


ENDS = {
    **dict.fromkeys(("empty", "trl", "hunyuan"), ""),
    **dict.fromkeys(("chatml", "chatml_de", "intern2", "plm", "qwen", "qwen3", "qwen_lf"), "<|im_end|>"),
    **dict.fromkeys(("qwen_math_r1", "qwen_r1"), "<|im_end|>"),
    "llama3": "<|eot_id|>",
    "deepseek4": "<｜end▁of▁sentence｜>",
}
"""What a reply ends with under each template, where it is not the tokenizer's end token."""

for _name, _target in TEMPLATES.items():
    _suite = f"Test{_name.title().replace('_', '').replace('-', '')}Template"
    globals()[_suite] = type(
        _suite,
        (TemplateContract,),
        {"target": _target, "end_of_turn": ENDS.get(_name, "<eos>"), "__module__": __name__},
    )


for _strategy in PluginHost([]).strategies:
    _class = _strategy.target.partition(":")[2]
    globals()[f"Test{_class}"] = type(
        f"Test{_class}", (StrategyContract,), {"target": _strategy.target, "__module__": __name__}
    )


def test_every_built_in_component_has_a_suite():
    suites = (HandlerContract, TemplateContract, StrategyContract)
    tested = {
        suite.target for contract in suites for suite in contract.__subclasses__() if suite.__module__ == __name__
    }
    host = PluginHost([])
    offered = {
        component.target for registry in (host.handlers, host.templates, host.strategies) for component in registry
    }
    assert offered <= tested


class TextlessHandler:
    """Says it has two texts, and gives one."""

    text_keys = ("a", "b")

    def __init__(self, columns: Mapping[str, str | None]) -> None: ...

    def __call__(self, record: Mapping[str, Any]) -> Iterator[TextSample]:
        yield TextSample((record["a"],))


def test_a_handler_with_too_few_texts_is_found():
    suite = HandlerContract()
    suite.target, suite.records = f"{__name__}:TextlessHandler", ({"a": "Once"},)
    with pytest.raises(AssertionError, match="1 texts for the keys"):
        suite.test_a_usable_record_gives_samples_with_messages()


# What a suite is worth shows when something is wrong: each of these breaks one promise.


class ForgetfulStrategy:
    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        return PackPlan.from_packs([[sample] for sample in range(len(lengths) - 1)], lengths, seq_length=seq_length)


class CrammingStrategy:
    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        return PackPlan.from_packs([list(range(len(lengths)))], lengths, seq_length=seq_length)


class MoodyStrategy:
    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan:
        plan = PackPlan.from_packs([[sample] for sample in range(len(lengths))], lengths, seq_length=seq_length)
        return plan.shuffled(np.random.default_rng())


class SwallowingHandler:
    """Gives nothing for a row it cannot use, instead of a reason."""

    def __init__(self, columns: Mapping[str, str | None]) -> None: ...

    def __call__(self, record: Mapping[str, Any]) -> Iterator[Sample]:
        if record.get("output"):
            yield Sample((Message("user", "Hi"), Message("assistant", record["output"])))


class GreedyTemplate:
    """Trains on what the user said."""

    def spans(self, sample: Sample) -> Iterable[Span]:
        for turn, message in enumerate(sample.messages):
            yield Span(message.content + "<eos>", True, turn, (0, len(message.content)))


@pytest.mark.parametrize(
    ("target", "test"),
    [
        ("ForgetfulStrategy", "test_one_sample"),
        ("ForgetfulStrategy", "test_every_sample_is_placed_once_and_no_pack_is_too_full"),
        ("CrammingStrategy", "test_samples_of_one_token"),
        ("CrammingStrategy", "test_no_samples"),
        ("MoodyStrategy", "test_equal_seeds_give_equal_plans"),
    ],
)
def test_a_wrong_strategy_is_found(target, test):
    suite = StrategyContract()
    suite.target = f"{__name__}:{target}"
    # hypothesis calls a strategy flaky that gives another plan when it is asked again
    with pytest.raises((AssertionError, Flaky)):
        getattr(suite, test)()


@pytest.mark.parametrize(
    "test", ["test_an_unusable_record_is_rejected_with_a_reason", "test_a_record_of_other_data_is_a_missing_column"]
)
def test_a_handler_that_drops_rows_in_silence_is_found(test):
    suite = HandlerContract()
    suite.target = f"{__name__}:SwallowingHandler"
    suite.unusable = (ROW | {"output": ""},)
    with pytest.raises(AssertionError, match="should raise RejectError"):
        getattr(suite, test)()


@pytest.mark.parametrize(
    "test",
    ["test_nothing_else_is_trained_on", "test_turns_are_numbered_from_0", "test_a_message_may_switch_training_off"],
)
def test_a_template_that_trains_on_the_question_is_found(test):
    suite = TemplateContract()
    suite.target = f"{__name__}:GreedyTemplate"
    with pytest.raises(AssertionError):
        getattr(suite, test)()


def test_a_reply_without_its_end_is_found(tmp_path: Path):
    (tmp_path / "endless.yaml").write_text('user: "{{content}}"\nassistant: "{{content}}"\nend_of_turn: ""\n')
    suite = TemplateContract()
    suite.target, suite.end_of_turn = str(tmp_path / "endless.yaml"), "<eos>"
    with pytest.raises(AssertionError, match="does not end with '<eos>'"):
        suite.test_every_reply_is_trained_on_up_to_its_end()


@pytest.mark.parametrize("contract", [HandlerContract, TemplateContract])
def test_a_suite_that_would_test_nothing_fails(contract):
    with pytest.raises(AssertionError, match="state "):
        contract().test_there_is_something_to_test()


def test_a_strategy_without_a_target_fails():
    with pytest.raises(Exception, match="cannot be loaded"):
        StrategyContract().test_one_sample()
