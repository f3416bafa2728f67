"""What ``--on-overlong`` does to whole data sets, against a count by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.ledger import Count, Ledger
from seqpack.core.types import IGNORE_INDEX
from seqpack.text.tokenizer import Tokenizer

from .conftest import Runs

WORD = " water"
END = "<|im_end|>"
COUNTS = st.integers(1, 40)
ROWS = st.lists(
    st.tuples(st.integers(1, 8), st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=5)), min_size=1, max_size=6
)
OPENING, EXCHANGE, SEPARATOR = 7, 12, 1
"""Tokens of ChatML around a system message, around question and reply, and between two exchanges."""

Turns = list[tuple[int, int]]


def row(system: int, turns: Turns) -> dict[str, object]:
    said = [part for user, reply in turns for part in (("human", WORD * user), ("gpt", WORD * reply))]
    return {"system": WORD * system, "conversations": [{"from": who, "value": text} for who, text in said]}


@dataclass
class Expected:
    """Samples by (words of the system message, words of each question and reply), and the ledger."""

    samples: Counter[tuple[int, tuple[tuple[int, int], ...]]] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)

    def keep(self, system: int, turns: Turns) -> tuple[int, int]:
        self.samples[system, tuple(turns)] += 1
        return size(system, turns), sum(reply + 1 for _, reply in turns)

    def add(self, system: int, turns: Turns, limit: int, on_overlong: str) -> None:
        original = size(system, turns)
        if original <= limit:
            self.ledger.keep(*self.keep(system, turns))
        elif on_overlong == "drop":
            self.ledger.drop("longer than --seq-length", original)
        elif on_overlong == "split":
            self._split(system, turns, limit)
        else:
            self._truncate(system, turns, limit)

    def _truncate(self, system: int, turns: Turns, limit: int) -> None:
        original = size(system, turns)
        for number in range(len(turns) - 1, 0, -1):
            if size(system, turns[:number]) <= limit:
                self.ledger.keep(*self.keep(system, turns[:number]), original=original)
                return
        user, reply = turns[0]
        budget = limit - OPENING - EXCHANGE
        if budget - system >= 2:
            budget -= system
            left, room = system, share(budget, user, reply)
            question = budget - room
        else:
            room = share(budget, system + user, reply)
            left = min(system, budget - room)
            question = budget - room - left
        if budget < 2:
            self.ledger.drop("no room for a trained token", original)
            return
        self.ledger.keep(*self.keep(left, [(min(question, user), room)]), original=original)

    def _split(self, system: int, turns: Turns, limit: int) -> None:
        end, lost, parts = len(turns), 0, []
        while end:
            fitting = [first for first in range(end) if size(system, turns[first:end]) <= limit]
            first = fitting[0] if fitting else end - 1
            if fitting:
                parts.append(self.keep(system, turns[first:end]))
            else:
                lost += size(system, turns[:end]) - (size(system, turns[:first]) if first else 0)
            end = first
        original = size(system, turns)
        if not parts:
            self.ledger.drop("one exchange longer than --seq-length", original)
            return
        lengths, trained = [length for length, _ in parts], sum(number for _, number in parts)
        repeated = sum(lengths) + lost - original
        self.ledger.split(lengths, trained, original=original, repeated=repeated, lost=lost)


def size(system: int, turns: Turns) -> int:
    return OPENING + system + sum(user + reply + EXCHANGE for user, reply in turns) + SEPARATOR * (len(turns) - 1)


def share(budget: int, prompt: int, reply: int) -> int:
    """Room for the reply."""
    if 2 * reply < budget:
        return reply
    return budget - prompt if 2 * prompt < budget else max(budget * reply // (prompt + reply), 1)


def words(text: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """A sample of ChatML as numbers of words; fails where a header or an end is not whole."""
    system, *rest = [part for part in text.replace("\n", "").split("<|im_start|>") if part]
    counts = []
    for part, role in zip([system, *rest], ["system", *["user", "assistant"] * len(rest)], strict=False):
        assert part.startswith(role) and part.endswith(END), part
        counts.append((len(part) - len(role) - len(END)) // len(WORD))
    return counts[0], tuple(zip(counts[1::2], counts[2::2], strict=True))


@given(rows=ROWS, limit=st.integers(24, 150), on_overlong=st.sampled_from(["truncate", "split", "drop", "error"]))
def test_counts_are_those_of_a_count_by_hand(tmp_path_factory, tokenizer_dir, rows, limit, on_overlong):
    folder: Path = tmp_path_factory.mktemp("long")
    file = folder / "x.jsonl"
    file.write_text("".join(json.dumps(row(*values)) + "\n" for values in rows))
    runs = Runs(folder / "sets", tokenizer_dir)
    options = {"seq_length": limit, "on_overlong": on_overlong, "max_drop": 1.0, "workers": 1}
    if on_overlong == "error" and any(size(*values) > limit for values in rows):
        with pytest.raises(DataError, match="do not fit --seq-length"):
            runs.preprocess(file, **options)
        assert runs.files() == {}
        return
    expected = Expected()
    for system, turns in rows:
        expected.add(system, turns, limit, on_overlong)
    if not expected.samples:
        with pytest.raises(DataError, match="none of"):
            runs.preprocess(file, **options)
        return
    ledger = runs.preprocess(file, **options).ledger
    assert ledger == expected.ledger
    dataset = runs.open("out")
    assert dataset.row_lengths.max() <= limit and dataset.num_targets.min() > 0
    tokenizer = Tokenizer(tokenizer_dir)
    assert Counter(words(tokenizer.decode(sample.input_ids.tolist())) for sample in dataset) == expected.samples


CONVERSATION = row(2, [(5, 5)] * 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_keep_the_line_of_their_row(runs, write_jsonl, workers):
    short = row(1, [(1, 1)])
    file = write_jsonl([short, CONVERSATION, short, CONVERSATION, row(1, [(99, 99)])])
    result = runs.preprocess(file, seq_length=64, on_overlong="split", neat_pack=True, max_drop=0.5, workers=workers)
    pieces = runs.open("out").pieces
    lines = sorted(pieces.line.tolist())
    assert lines == [1, 2, 2, 2, 3, 4, 4, 4]
    listed = [json.loads(line) for line in result.paths.rejects.read_text().splitlines()]
    assert [(loss["outcome"], loss["key"].rpartition(":")[2]) for loss in listed] == [
        ("split", "2"),
        ("split", "4"),
        ("dropped", "5"),
    ]
    assert result.ledger.repeated == Count(4, 2 * listed[0]["tokens"]) == Count(4, sum(x["tokens"] for x in listed[:2]))
    assert result.manifest.recipe["split_sft"] is False


def test_only_split_sft_makes_parts_of_a_reply(runs, write_jsonl):
    file = write_jsonl([row(1, [(1, 1)]), row(1, [(9, 200)])])
    kept = runs.preprocess(file, "a", seq_length=64, on_overlong="split", max_drop=0.5).ledger
    assert (kept.kept.samples, kept.dropped) == (1, {"one exchange longer than --seq-length": Count(1, 229)})
    ledger = runs.preprocess(file, "b", seq_length=64, on_overlong="split", split_sft=True).ledger
    assert not ledger.dropped and ledger.kept.samples > 4
    dataset = runs.open("b")
    trained = [label for sample in dataset for label in sample.labels.tolist() if label != IGNORE_INDEX]
    assert len(trained) == 1 + 1 + 200 + 1 and dataset.row_lengths.max() <= 64


def test_a_conversation_trained_on_its_last_reply_keeps_it(runs, write_jsonl):
    """Cut from the end, nothing would be left of it to train on."""
    for turns in ([(5, 5)] * 6, [(5, 5)] * 5 + [(60, 20)]):
        file = write_jsonl([row(2, turns)])
        ledger = runs.preprocess(file, seq_length=64, train_on="last", overwrite=True).ledger
        (sample,) = list(runs.open("out"))
        tokenizer = Tokenizer(runs.tokenizer)
        system, left = words(tokenizer.decode(sample.input_ids.tolist()))
        assert system == 2 and len(sample) <= 64
        assert left == ((5, 5),) * 2 if turns[-1] == (5, 5) else len(left) == 1
        assert ledger.trained == left[-1][1] + 1 > 5 and ledger.truncated.samples == 1


def test_append_eod_is_in_every_part(runs, write_jsonl):
    ledger = runs.preprocess(
        write_jsonl([CONVERSATION]), prompt_type="qwen_lf", seq_length=64, on_overlong="split", append_eod=True
    ).ledger
    end = Tokenizer(runs.tokenizer).token_id(END)
    assert all(sample.labels[-1] == end for sample in runs.open("out"))
    ledger.check()


def test_documents_are_never_too_long(runs, write_jsonl):
    file = write_jsonl([{"text": "word " * 99}])
    for options in ({}, {"seq_length": 16}):
        with pytest.raises(ConfigError, match="--on-overlong would do nothing"):
            runs.preprocess(file, handler="text", on_overlong="split", **options)
