"""The ledger balances whatever happens to the samples."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.ledger import Count, Ledger

REASONS = st.sampled_from(["too long", "nothing to train on"])


@st.composite
def kept_sample(draw):
    """(tokens read, tokens kept, tokens trained)"""
    read = draw(st.integers(1, 100))
    kept = draw(st.integers(1, read))
    return read, kept, draw(st.integers(0, kept))


@st.composite
def split_sample(draw):
    """(lengths of the parts, trained, tokens read, repeated, lost), where parts + lost = read + repeated"""
    lengths = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4))
    repeated = draw(st.integers(0, sum(lengths)))
    lost = draw(st.integers(0, 50))
    return lengths, draw(st.integers(0, sum(lengths))), sum(lengths) + lost - repeated, repeated, lost


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("reject"), REASONS),
        st.tuples(st.just("drop"), REASONS, st.integers(0, 100)),
        st.tuples(st.just("keep"), kept_sample()),
        st.tuples(st.just("split"), split_sample()),
        st.tuples(st.just("unkeep"), REASONS, kept_sample()),
    )
)


def replay(events) -> Ledger:
    ledger = Ledger()
    for kind, *values in events:
        if kind == "reject":
            ledger.reject(values[0])
        elif kind == "drop":
            ledger.drop(*values)
        elif kind == "split":
            lengths, trained, read, repeated, lost = values[0]
            ledger.split(lengths, trained, original=read, repeated=repeated, lost=lost)
        else:
            read, kept, trained = values[-1]
            ledger.keep(kept, trained, original=read)
            if kind == "unkeep":
                ledger.unkeep(values[0], kept, trained)
    return ledger


@given(EVENTS)
def test_every_token_is_somewhere(events):
    ledger = replay(events)
    ledger.check()
    read = sum(event[2] for event in events if event[0] == "drop")
    read += sum(event[-1][0] for event in events if event[0] in ("keep", "unkeep"))
    splits = [event[1] for event in events if event[0] == "split"]
    read += sum(split[2] for split in splits)
    kept = sum(event[1][1] for event in events if event[0] == "keep") + sum(sum(split[0]) for split in splits)
    num_kept = sum(event[0] == "keep" for event in events) + sum(len(split[0]) for split in splits)
    assert ledger.read == Count(sum(event[0] != "reject" for event in events), read)
    assert ledger.kept == Count(num_kept, kept)
    repeated = sum(split[3] for split in splits)
    assert ledger.repeated == Count(sum(len(split[0]) - 1 for split in splits), repeated)
    assert read + repeated == ledger.trained + ledger.context + ledger.truncated.tokens + ledger.all_dropped.tokens
    assert ledger.rows == len(events)
    assert ledger.num_rejected == sum(event[0] == "reject" for event in events)
    assert 0 <= ledger.loss_share <= 1


@given(EVENTS)
def test_it_survives_json(events):
    ledger = replay(events)
    assert Ledger.from_dict(json.loads(json.dumps(ledger.to_dict()))) == ledger


def test_shares_by_hand():
    ledger = Ledger()
    assert ledger.loss_share == 0.0
    ledger.reject("empty")
    ledger.drop("too long", 9)
    ledger.keep(6, 4, original=8)
    ledger.keep(5, 1)
    assert ledger.loss_share == 2 / 4
    assert ledger.truncated == Count(1, 2)
    assert (ledger.trained, ledger.context) == (5, 6)


def test_a_ledger_that_does_not_balance_is_noticed():
    ledger = Ledger()
    ledger.keep(6, 4)
    ledger.context += 1
    with pytest.raises(AssertionError):
        ledger.check()


@given(EVENTS, st.integers(0, 10))
def test_parts_add_up_to_the_whole(events, cut):
    whole, parts = replay(events), replay(events[:cut])
    parts.add(replay(events[cut:]))
    assert parts.to_dict() == whole.to_dict()
    assert list(parts.rejected) == list(whole.rejected) and list(parts.dropped) == list(whole.dropped)


def test_many_whole_samples_count_as_one_by_one():
    one_by_one, together = Ledger(), Ledger()
    for tokens, trained in ((5, 2), (7, 7)):
        one_by_one.keep(tokens, trained)
    together.keep_whole(2, 12, 9)
    assert together == one_by_one
