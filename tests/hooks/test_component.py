"""Components and the registry they are looked up in."""

from __future__ import annotations

from typing import Any

import pytest

from seqpack.core.errors import ConfigError, PluginError
from seqpack.hooks.component import Component, Registry


def component(name: str, *aliases: str, plugin: str = "acme", target: str = "json:loads") -> Component[Any]:
    return Component(name, target, "", aliases, plugin)


@pytest.fixture
def registry() -> Registry[Any]:
    registry: Registry[Any] = Registry("packing strategy")
    registry.add_all([component("best-fit", "bfd", plugin="seqpack"), component("greedy", plugin="seqpack")])
    return registry


@pytest.mark.parametrize("name", ["best-fit", "bfd", "seqpack:best-fit"])
def test_a_component_is_found_by_name_alias_and_plugin(registry, name):
    assert registry.find(name).name == "best-fit"


def test_an_unknown_name_is_answered_with_the_nearest_and_the_failed_plugins(registry):
    with pytest.raises(ConfigError) as caught:
        registry.find("best-fitt", failed_plugins=["acme", "zoo"])
    assert caught.value.code == "SP002"
    assert caught.value.message == "no packing strategy 'best-fitt'"
    assert "did you mean 'best-fit'?" in caught.value.help
    assert "known: best-fit, greedy" in caught.value.help
    assert "not loaded: acme, zoo" in caught.value.help


def test_a_name_that_is_like_no_other_gets_the_list_alone(registry):
    with pytest.raises(ConfigError) as caught:
        registry.find("zzz")
    assert caught.value.help == "known: best-fit, greedy"


@pytest.mark.parametrize("clash", [component("greedy"), component("mine", "bfd"), component("bfd")])
def test_a_taken_name_keeps_all_components_of_a_plugin_out(registry, clash):
    before = registry.names()
    with pytest.raises(PluginError, match="already taken by plugin 'seqpack'") as caught:
        registry.add_all([component("fine"), clash])
    assert caught.value.code == "SP013"
    assert registry.names() == before
    assert [found.name for found in registry] == ["best-fit", "greedy"]


def test_a_plugin_cannot_use_one_name_twice(registry):
    with pytest.raises(PluginError, match="already taken by plugin 'acme'"):
        registry.add_all([component("mine"), component("mine")])


def test_components_come_in_the_order_of_their_names(registry):
    registry.add_all([component("alpha")])
    assert [found.name for found in registry] == ["alpha", "best-fit", "greedy"]
    assert registry.names() == ["alpha", "best-fit", "bfd", "greedy"]


def test_a_component_loads_what_its_target_names():
    import json

    assert component("loads").load() is json.loads


@pytest.mark.parametrize("target", ["no_such_module:thing", "json:no_such_thing", "", "json:"])
def test_a_target_that_is_not_there_names_plugin_and_target(target):
    with pytest.raises(PluginError, match="'mine' of plugin 'acme' cannot be loaded") as caught:
        component("mine", target=target).load()
    assert caught.value.code == "SP012"
    assert repr(target) in caught.value.message


def test_a_component_that_cannot_be_made_names_the_plugin():
    with pytest.raises(PluginError, match="'mine' of plugin 'acme' cannot be made: JSONDecodeError"):
        component("mine", target="json:loads").create("{")


def test_an_error_of_ours_passes_through_making():
    with pytest.raises(ConfigError, match="no part 'promt'"):
        component("mine", target="seqpack.handlers.alpaca:AlpacaHandler").create({"promt": "x"})


def test_a_component_may_name_its_kind():
    assert Component[Any]("mine", "json:loads", "s").load()("1") == 1
