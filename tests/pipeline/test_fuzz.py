"""Random rows, good and bad, through every handler and every template.

Nothing but our own errors comes out, the ledger accounts for every row and token, and what is trained on is what the
assistant says and the token that ends it, to the byte. ``SEQPACK_FUZZ=500`` tries 500 files per template instead of 24.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.core.ledger import Ledger
from seqpack.core.types import IGNORE_INDEX, Sample, TokenizedSample
from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import DatasetHandler, HandlerOptions, make_handler
from seqpack.io.readers import read_records
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.samples import KeptBatch, SampleSource
from seqpack.text.catalog import open_template
from seqpack.text.chat_template import ChatTemplate
from seqpack.text.encoder import SampleEncoder
from seqpack.text.layout import Renderer
from seqpack.text.plain import ControlText
from seqpack.text.template import CONTENT, TextTemplate
from seqpack.text.tokenizer import Tokenizer
from tests.pipeline.conftest import Runs
from tests.text.test_all_templates import TOKENS, tokenizer_of
from tests.text.test_chat_template import FORGETFUL, MARKED, PLAIN

EXAMPLES = int(os.environ.get("SEQPACK_FUZZ", "24"))
ZOO = Path(__file__).parents[2] / "plugins" / "seqpack-handlers-zoo" / "src"
CHAT = {"plain": PLAIN, "marked": MARKED, "forgetful": FORGETFUL}
TEMPLATES = sorted(template.name for template in PluginHost([]).templates)
CALLS, PROMPTS = ("function", "observation"), ("system", "user")

CHARACTERS = st.characters(exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3")
SHORT = ["", " ", "\n\n", "\0", "🎉", "👨‍👩‍👧", "e\u0301", "\ud83d", "\udc4d", "<think>", "[INST]", "{{content}}"]
PARTS = [*TOKENS, *SHORT, "a", "<|", "|>", "<think>\n", "\n</think>\n\n", "{{idx}}", "火", " water" * 20]
TEXTS = st.text(CHARACTERS, max_size=24) | st.lists(st.sampled_from(PARTS), max_size=4).map("".join)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FLAG = st.sampled_from([None, None, None, True, False])


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def turns(draw: st.DrawFn, who: str, what: str, user: str, reply: str) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        for name in (user, reply):
            turn: dict[str, Any] = {who: name, what: draw(TEXTS)}
            if (flag := draw(FLAG)) is not None and draw(st.booleans()):
                turn["train"] = flag
            found.append(turn)
    return found


ALPACA = st.fixed_dictionaries(
    {"instruction": TEXTS, "output": TEXTS},
    optional={
        "input": TEXTS,
        "system": TEXTS,
        "history": st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=2),
    },
)
CALL = st.fixed_dictionaries({"name": TEXTS, "arguments": st.dictionaries(TEXTS, ODD, max_size=2)})
TOOLS = st.lists(st.fixed_dictionaries({"name": TEXTS, "description": TEXTS, "parameters": ODD}), max_size=2)
AGENT = st.tuples(TEXTS, CALL, TEXTS, TEXTS).map(
    lambda said: [
        {"from": "human", "value": said[0]},
        {"from": "function_call", "value": json.dumps(said[1])},
        {"from": "observation", "value": said[2]},
        {"from": "gpt", "value": said[3]},
    ]
)
SHAREGPT = st.fixed_dictionaries(
    {"conversations": turns("from", "value", "human", "gpt") | AGENT}, optional={"system": TEXTS, "tools": TOOLS}
)
TOOL_TURNS = st.tuples(TEXTS, TEXTS, st.lists(CALL, max_size=2), st.lists(TEXTS, max_size=2), TEXTS).map(
    lambda said: [
        {"role": "user", "content": said[0]},
        {"role": "assistant", "content": said[1], "tool_calls": [{"function": call} for call in said[2]]},
        *({"role": "tool", "content": text} for text in said[3]),
        {"role": "assistant", "content": said[4]},
    ]
)
OPENAI = st.fixed_dictionaries(
    {"messages": turns("role", "content", "user", "assistant") | TOOL_TURNS}, optional={"tools": TOOLS}
)
BELLE_FORM = "Human:{0[0]}\nAssistant:{0[1]}\nHuman:{0[2]}\nAssistant:"
BELLE = st.fixed_dictionaries({"instruction": st.tuples(TEXTS, TEXTS, TEXTS).map(BELLE_FORM.format), "output": TEXTS})
MOSS = st.fixed_dictionaries(
    {"chat": st.lists(st.fixed_dictionaries({"Human": TEXTS, "MOSS": TEXTS}), max_size=3).map(
        lambda said: {f"turn_{number}": turn for number, turn in enumerate(said, 1)}
    )}
)  # fmt: skip
CODE = st.fixed_dictionaries({"code_with_problem": TEXTS, "code_only": TEXTS}, optional={"explanation_only": TEXTS})
ROWS: dict[str, st.SearchStrategy[Any]] = {
    "AlpacaStyleInstructionHandler": ALPACA,
    "GeneralInstructionHandler": ALPACA,
    "SharegptStyleInstructionHandler": SHAREGPT,
    "OpenAIInstructionHandler": OPENAI,
    "belle:BelleMultiTurnInstructionHandler": BELLE,
    "moss:MOSSMultiTurnHandler": MOSS,
    "moss:MOSSInstructionHandler": MOSS,
    "code:LeetcodePythonInstructionHandler": CODE,
}
TEXT_HANDLERS = {"GeneralPretrainHandler": st.fixed_dictionaries({"text": TEXTS}), "AlpacaPretrainHandler": ALPACA}


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[Any]) -> Any:
    """A row of the right form in which one thing is another."""
    row = draw(good)
    place = row
    while isinstance(place, dict | list) and place:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if draw(st.booleans()) or not isinstance(place[key], dict | list):
            place[key] = draw(ODD | st.sampled_from([nested(60), ["chat"], {}, {"from": {}}]))
            break
        place = place[key]
    return row


def files(handlers: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[str, list[Any]]]:
    """A handler and rows for it: most good, some damaged, some anything at all."""

    def rows(name: str) -> st.SearchStrategy[tuple[str, list[Any]]]:
        good = handlers[name]
        row = st.one_of(good, good, good, damaged(good), ODD)
        return st.tuples(st.just(name), st.lists(row, min_size=1, max_size=5))

    return st.sampled_from(sorted(handlers)).flatmap(rows)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_of(tokenizer_dir, tmp_path_factory.mktemp("every-token"))


@pytest.fixture(scope="module", autouse=True)
def zoo() -> Any:
    """The package of the zoo can be imported, though it is not installed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ZOO))
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "rows.jsonl"


@functools.cache
def template_of(name: str, tokenizer: Tokenizer) -> tuple[Any, int | None]:
    """A template and the id of its end token."""
    if name in CHAT:
        return ChatTemplate(CHAT[name]), tokenizer.token_id("<|im_end|>")
    opened = open_template(TextOptions(tokenizer=tokenizer.directory, prompt_type=name), tokenizer)
    return opened.template, opened.eos_token_id


@functools.cache
def handler_of(name: str) -> DatasetHandler:
    module, _, kind = name.rpartition(":")
    if module:
        handler: DatasetHandler = getattr(importlib.import_module(f"seqpack_handlers_zoo.{module}"), kind)({})
        return handler
    return make_handler(PluginHost([]).handler(name), HandlerOptions(columns={}))


def write(file: Path, rows: Sequence[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def source_of(file: Path, name: str, template: Any, tokenizer: Tokenizer, end: int | None) -> SampleSource:
    found = ResolvedInput([file], [handler_of(name)], name, (), {})
    control = ControlText(tokenizer)
    renderer, encoder = Renderer(template, control), SampleEncoder(tokenizer, control)
    return SampleSource(found, template, tokenizer, end, {}, control, renderer, encoder)


def run(source: SampleSource, **length: Any) -> tuple[list[KeptBatch], list[Loss], Ledger] | None:
    """All batches; None if the file ends in an error of ours that it may end in."""
    counted, losses = source.uncounted(), list[Loss]()
    try:
        batches = list(counted.tokenize(LengthOptions(**length), lost=losses.append))
    except DataError as error:
        if error.code != "SP110":  # the first row has other columns
            raise
        return None
    counted.ledger.check()
    return batches, losses, counted.ledger


def trained_text(tokenizer: Tokenizer, sample: TokenizedSample) -> str:
    runs = groupby(sample.labels.tolist(), key=lambda label: label != IGNORE_INDEX)
    return "".join(tokenizer.decode(list(run)) for is_trained, run in runs if is_trained)


def said(template: Any, sample: Sample) -> str | None:
    """What must be trained on: all replies and their ends; None where the template changes what was said."""
    if any(message.role in CALLS or (message.role in PROMPTS and message.train) for message in sample.messages):
        return None
    replies = [message for message in sample.messages if message.role == "assistant"]
    if isinstance(template, TextTemplate):
        if template.thoughts is not None and any(template.thoughts._marks_in(reply.content) for reply in replies):
            return None
        frame, ending = "".join(template.assistant), template.end_of_turn if template.efficient_eos else ""
    else:
        if template.source == FORGETFUL and any("</think>" in reply.content for reply in replies):
            return None
        frame, ending = CONTENT, "<|im_end|>" if template.has_marks else "<|im_end|>\n"
    return "".join(frame.replace(CONTENT, reply.content) + ending for reply in replies if reply.train is not False)


def check_texts(source: SampleSource, file: Path, batches: Sequence[KeptBatch]) -> None:
    """Every sample trains on what was said in its row, whichever rows are kept."""
    expected: Counter[tuple[int, str]] = Counter()
    unknown: set[int] = set()
    for record in read_records(file):
        try:
            samples = list(source.input.handlers[0](record.value))
        except Exception:  # whatever it is, the run has seen the same
            continue
        for sample in samples:
            assert isinstance(sample, Sample)
            text = said(source.template, sample)
            if text is None:
                unknown.add(record.line)
            else:
                expected[record.line, text] += 1
    for batch in batches:
        for line, sample in zip(batch.line.tolist(), batch.tokens, strict=True):
            text = trained_text(source.tokenizer, sample)
            if line not in unknown:
                assert expected[line, text] > 0, text
                expected[line, text] -= 1


def check_samples(batches: Sequence[KeptBatch], ledger: Ledger, limit: int | None) -> None:
    """The ledger counts the samples that come out, and they are as the length asks."""
    lengths = [length for batch in batches for length in batch.tokens.lengths.tolist()]
    trained = [number for batch in batches for number in batch.tokens.num_trained.tolist()]
    assert (len(lengths), sum(lengths), sum(trained)) == (ledger.kept.samples, ledger.kept.tokens, ledger.trained)
    assert all(trained) and all(limit is None or length <= limit for length in lengths)


LIMITS = st.fixed_dictionaries(
    {
        "seq_length": st.integers(2, 120),
        "on_overlong": st.sampled_from(["truncate", "split", "drop"]),
        "append_eod": st.booleans(),
    }
)


@pytest.mark.parametrize("name", [*TEMPLATES, *CHAT])
@settings(max_examples=EXAMPLES)
@given(data=files(ROWS), limits=LIMITS, split_sft=st.booleans())
def test_any_rows(file, tokenizer, name, data, limits, split_sft):
    handler, rows = data
    write(file, rows)
    template, end = template_of(name, tokenizer)
    source = source_of(file, handler, template, tokenizer, end)
    whole = run(source)
    if whole is None:
        return
    batches, losses, ledger = whole
    check_samples(batches, ledger, None)
    check_texts(source, file, batches)
    assert ledger.rows >= len(rows) - ("MOSSInstruction" in handler)
    assert Counter(loss.reason for loss in losses if loss.outcome == "rejected") == ledger.rejected

    split_sft = split_sft and limits["on_overlong"] == "split"
    fitted = run(source, **limits, split_sft=split_sft)
    assert fitted is not None
    kept, losses, short = fitted
    check_samples(kept, short, limits["seq_length"])
    assert short.rejected == ledger.rejected and short.read.samples == ledger.read.samples
    if not split_sft and isinstance(template, TextTemplate) and template.end_of_turn and end is not None:
        for sample in (sample for batch in kept for sample in batch.tokens):
            labels = sample.labels[sample.labels != IGNORE_INDEX][-2:].tolist()
            # an end that is only a label gives way to a token behind it that is trained on itself
            gives_way = template.efficient_eos and "'train': True" in repr(rows)
            ends = {end, tokenizer.eos_token_id} & {*labels}
            assert ends or gives_way or name in ("empty", "trl", "hunyuan", "plm"), "the end of a reply is kept"


@settings(max_examples=EXAMPLES * 3)
@given(data=files(TEXT_HANDLERS), append_eod=st.booleans())
def test_any_text(tmp_path_factory, tokenizer_dir, data, append_eod):
    """Pretraining text: every text is a document, to the byte."""
    handler, rows = data
    folder = tmp_path_factory.mktemp("text")
    write(folder / "rows.jsonl", rows)
    runs = Runs(folder / "sets", tokenizer_dir)
    try:
        result = runs.preprocess(folder / "rows.jsonl", handler=handler, append_eod=append_eod, max_drop=1.0)
    except DataError as error:
        if error.code not in ("SP109", "SP110"):
            raise
        assert runs.files() == {}
        return
    result.ledger.check()
    assert result.ledger.rows == len(rows)
