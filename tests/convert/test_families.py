"""Families of plugins: one that cannot be loaded is said, and stops nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seqpack.convert import families
from seqpack.convert.families import LLAMA, MIXTRAL, find_converter, load_converters
from seqpack.core.errors import ConfigError, PluginError
from seqpack.hooks.component import Component
from seqpack.hooks.host import PluginHost


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    host = PluginHost([])
    host.weight_converters.add_all(
        [
            Component("gone", "no_such_module:X", "cannot be imported", plugin="acme"),
            Component("odd", "json:dumps", "is no table", plugin="acme"),
        ]
    )
    monkeypatch.setattr(families, "plugin_host", lambda: host)
    return


def test_built_in_families_are_tables() -> None:
    known, broken = load_converters()
    assert [each.name for each in known] == ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"]
    assert broken == {}
    assert (LLAMA.has_experts, MIXTRAL.has_experts) == (False, True)


@pytest.mark.usefixtures("broken")
def test_a_broken_family_hurts_no_other() -> None:
    assert find_converter({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}) is LLAMA


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("name", "reason"), [("gone", "no_such_module"), ("odd", "no WeightConverter")])
def test_a_broken_family_is_said_where_it_is_wanted(name: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        find_converter({"architectures": ["XForCausalLM"], "model_type": name})


@pytest.mark.usefixtures("broken")
def test_an_unknown_family_is_answered_with_those_that_failed() -> None:
    with pytest.raises(ConfigError, match="not loaded: gone, odd") as caught:
        find_converter({"architectures": ["GPT2LMHeadModel"]})
    assert caught.value.code == "SP402"
