"""Flags of other systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.compat import CompatOptions, IgnoredOptions, RefusedOptions
from seqpack.options.data import PackOptions, TextOptions


def test_fillers_belong_to_compatibility():
    with pytest.raises(ConfigError, match="only for --compat mindspeed") as caught:
        CompatOptions(pad_to_multiple_of=8)
    assert caught.value.code == "SP026"
    assert CompatOptions(compat="mindspeed", pad_to_multiple_of=8).compat == "mindspeed"
    assert CompatOptions(pad_to_multiple_of=1).notes() == []


def test_subsets_have_no_effect_elsewhere():
    (note,) = CompatOptions(n_subs=4).notes()
    assert note.startswith("--n-subs has no effect")
    assert CompatOptions(compat="mindspeed", n_subs=4).notes() == []


@pytest.mark.parametrize(
    "options",
    [
        {"split_sentences": True},
        {"hf_datasets_params": "params.json"},
        {"script_data_dir": "scripts"},
        {"mix_strategy": "interleave_under"},
        {"interleave_probs": "0.5,0.5"},
        {"merge_group_keys": ["input_ids"]},
        {"reasoning_effort": "max"},
        {"drop_thinking": "false"},
        {"reward_tokens": ["+", "-"]},
    ],
)
def test_flags_that_would_change_the_data_are_refused_with_a_way_out(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}.* is not supported") as caught:
        RefusedOptions(**options)
    assert caught.value.code == "SP029"
    assert caught.value.help


def test_their_defaults_are_accepted():
    options = RefusedOptions(mix_strategy="concat", drop_thinking="true")
    assert (options.mix_strategy, options.drop_thinking) == ("concat", "true")


@pytest.mark.parametrize(
    ("options", "directory"),
    [
        ({"tokenizer": Path("a")}, "a"),
        ({"load": Path("models/b")}, "models/b"),
        ({"tokenizer_model": Path("models/c/tekken.json")}, "models/c"),
        ({"tokenizer": Path("a"), "load": Path("b")}, "a"),
    ],
)
def test_other_names_of_the_tokenizer(options, directory):
    text = TextOptions(**options)
    assert text.tokenizer == Path(directory)
    assert len(text.notes()) == len({"load", "tokenizer_model"} & set(options))


def test_a_tokenizer_is_required():
    with pytest.raises(ConfigError, match="--tokenizer is missing"):
        TextOptions()


def test_flags_of_pai_packs():
    pack = PackOptions(sequence_packing=True)
    assert (pack.packs, pack.neat_pack, pack.strategy) == (True, True, "sequential")
    assert pack.notes() == ["--sequence-packing stands for --neat-pack --strategy sequential"]
    assert PackOptions(neat_pack=True, keep_sequential_samples=True).strategy == "sequential"
    unpacked = PackOptions(keep_sequential_samples=True)
    assert unpacked.strategy == "balanced" and "no effect" in unpacked.notes()[0]


def test_flags_without_effect_say_so():
    assert IgnoredOptions().notes() == []
    notes = IgnoredOptions(log_interval=1000, overwrite_cache=True).notes()
    assert notes == [
        "--log-interval has no effect: progress is shown by time.",
        "--overwrite-cache has no effect: there is no cache to overwrite.",
    ]
