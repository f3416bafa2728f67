"""The host: one plugin that fails is reported, leaves no trace, and hurts no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.hooks import host as host_module
from seqpack.hooks.component import Component
from seqpack.hooks.host import LOAD_PLUGINS_VARIABLE, PluginHost
from seqpack.hooks.specs import hookimpl

BUILT_IN = PluginHost([])
Plugin = Callable[..., EntryPoint]


@pytest.fixture(autouse=True)
def all_plugins_are_loaded(monkeypatch):
    monkeypatch.delenv(LOAD_PLUGINS_VARIABLE, raising=False)


@pytest.fixture
def plugin(monkeypatch) -> Plugin:
    """Makes a module and its entry point: ``plugin("acme", seqpack_handlers=[Component(...)], STATE=1)``."""

    def make(name: str, **members: Any) -> EntryPoint:
        module = ModuleType(f"seqpack_test_{name}")
        for member, value in members.items():
            setattr(module, member, _hook(value) if isinstance(value, list) else value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, module.__name__, "seqpack")

    return make


def _hook(components: list[Any]) -> Callable[[], list[Any]]:
    @hookimpl
    def give() -> list[Any]:
        return components

    return give


def component(name: str, *aliases: str) -> Component[Any]:
    return Component(name, "acme.module:Thing", "what it is for", aliases)


def names(host: PluginHost) -> tuple[list[str], ...]:
    return host.handlers.names(), host.templates.names(), host.strategies.names()


def test_built_ins_come_through_the_same_hooks():
    assert BUILT_IN.reports == []
    assert {found.plugin for registry in (BUILT_IN.handlers, BUILT_IN.strategies) for found in registry} == {"seqpack"}


def test_a_plugin_adds_its_components(plugin):
    acme = plugin("acme", seqpack_handlers=[component("tickets", "support")], seqpack_strategies=[component("snake")])
    host = PluginHost([acme])
    (report,) = host.reports
    assert (report.name, report.error, report.hooks) == ("acme", "", ("seqpack_handlers", "seqpack_strategies"))
    for name in ("tickets", "support", "acme:tickets"):
        assert host.handler(name).plugin == "acme"
    assert host.strategy("snake").summary == "what it is for"


def test_nothing_behind_a_component_is_imported_until_it_is_chosen(plugin):
    PluginHost([plugin("acme", seqpack_handlers=[component("tickets")])]).handler("tickets")
    assert "acme.module" not in sys.modules


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"seqpack_handlerz": [component("tickets")]}, "seqpack_handlerz"),
        ({"SEQPACK_PLUGIN_API": 2, "seqpack_handlers": [component("tickets")]}, "written for plugin API 2, this is 1"),
        ({"seqpack_strategies": [component("greedy")]}, "'greedy' is already taken by plugin 'seqpack'"),
        (
            {"seqpack_handlers": [component("fine")], "seqpack_templates": [component("qwen")]},
            "'qwen' is already taken",
        ),
        ({"seqpack_handlers": ["tickets"]}, "must give Components, not 'tickets'"),
    ],
)
def test_a_wrong_plugin_is_reported_and_leaves_no_trace(plugin, members, reason):
    host = PluginHost([plugin("wrong", **members), plugin("zoo", seqpack_handlers=[component("zebra")])])
    wrong, zoo = host.reports
    assert reason in wrong.error
    assert wrong.hooks == ()
    assert host.failed == ["wrong"]
    assert zoo.error == ""
    assert set(host.handlers.names()) - set(BUILT_IN.handlers.names()) == {"zebra"}
    assert names(host)[1:] == names(BUILT_IN)[1:]


def test_a_hook_that_raises_is_reported(plugin):
    @hookimpl
    def seqpack_handlers():
        raise OSError("no such folder")

    host = PluginHost([plugin("acme", seqpack_handlers=seqpack_handlers)])
    assert host.reports[0].error == "OSError: no such folder"
    assert names(host) == names(BUILT_IN)


def test_a_hook_with_an_unknown_argument_is_reported(plugin):
    @hookimpl
    def seqpack_handlers(kind):
        return []

    host = PluginHost([plugin("acme", seqpack_handlers=seqpack_handlers)])
    assert "kind" in host.reports[0].error


def test_a_plugin_that_cannot_be_imported_is_reported():
    host = PluginHost([EntryPoint("ghost", "seqpack_no_such_module", "seqpack")])
    assert host.reports[0].error == "ModuleNotFoundError: No module named 'seqpack_no_such_module'"
    assert names(host) == names(BUILT_IN)


def test_a_plugin_that_ends_the_process_on_import_is_reported(tmp_path, monkeypatch):
    (tmp_path / "quitter.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    host = PluginHost([EntryPoint("quitter", "quitter", "seqpack")])
    assert host.reports[0].error == "SystemExit: 3"


def test_of_two_plugins_with_one_name_the_first_is_used(plugin):
    plugins = [plugin(name, seqpack_handlers=[component("tickets")]) for name in ("acme", "bolt")]
    host = PluginHost(plugins)
    assert host.handler("tickets").plugin == "acme"
    assert host.failed == ["bolt"]


def test_an_unknown_name_is_answered_with_the_plugins_that_failed(plugin):
    host = PluginHost([plugin("wrong", SEQPACK_PLUGIN_API=9)])
    with pytest.raises(ConfigError) as caught:
        host.handler("alpacca")
    assert caught.value.message == "no dataset handler 'alpacca'"
    assert "did you mean 'alpaca'?" in caught.value.help
    assert "not loaded: wrong (see: seqpack plugins)" in caught.value.help


@pytest.mark.parametrize(
    ("value", "loaded"),
    [(None, ["acme", "bolt"]), ("", []), ("bolt", ["bolt"]), (" acme , bolt", ["acme", "bolt"]), ("other", [])],
)
def test_a_variable_selects_the_plugins_to_load(plugin, monkeypatch, value, loaded):
    if value is not None:
        monkeypatch.setenv(LOAD_PLUGINS_VARIABLE, value)
    host = PluginHost([plugin(name, seqpack_handlers=[component(name)]) for name in ("acme", "bolt")])
    assert [report.name for report in host.reports] == loaded
    assert names(host)[1:] == names(BUILT_IN)[1:]


def test_installed_plugins_come_in_the_order_of_their_names(monkeypatch):
    found = [EntryPoint(name, "module", "seqpack") for name in ("zoo", "acme")]
    monkeypatch.setattr(host_module, "entry_points", lambda group: found)
    assert [entry_point.name for entry_point in host_module.installed_plugins()] == ["acme", "zoo"]
