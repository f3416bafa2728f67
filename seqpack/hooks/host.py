"""Finds plugins, keeps a broken one from hurting the others, and answers which component has a name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, cast

import pluggy

from seqpack.core.errors import ConfigError, PluginError, SeqpackError
from seqpack.hooks import builtin, specs
from seqpack.hooks.component import Component, Registry

ENTRY_POINT_GROUP = "seqpack"
BUILTIN = "seqpack"
LOAD_PLUGINS_VARIABLE = "SEQPACK_LOAD_PLUGINS"
_ZOO = ("is in the package seqpack-handlers-zoo, which is not installed", "pip install ./plugins/seqpack-handlers-zoo")
ELSEWHERE: dict[str, tuple[str, str]] = {
    "BelleMultiTurnInstructionHandler": _ZOO,
    "MOSSMultiTurnHandler": _ZOO,
    "MOSSInstructionHandler": _ZOO,
    "LeetcodePythonInstructionHandler": _ZOO,
    "StackOverflowPythonPretrainHandler": _ZOO,
    "HunyuanInstructionHandler": (
        "is not one of its own: the rows are ShareGPT's, and the tokenizer's chat template renders them",
        "use --handler sharegpt --prompt-type chat-template",
    ),
    "AlpacaStyleProcessRewardHandler": (
        "is not supported: process reward data are not made",
        "choose another --handler",
    ),
}
"""Handlers that MindSpeed-LLM has and seqpack alone does not: why, and what to do."""


@dataclass(frozen=True, slots=True)
class PluginReport:
    """One plugin as ``seqpack plugins`` lists it; ``error`` is empty if it works."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    error: str = ""


class PluginHost:
    """All components by kind. Each plugin is loaded on its own: one that fails is reported and leaves no trace."""

    def __init__(self, plugins: Iterable[EntryPoint] | None = None) -> None:
        self.handlers: Registry[specs.DatasetHandler] = Registry("dataset handler")
        self.templates: Registry[specs.PromptTemplate] = Registry("prompt template")
        self.strategies: Registry[specs.PackingStrategy] = Registry("packing strategy")
        self.metric_sinks: Registry[specs.MetricSink] = Registry("metric sink")
        self.weight_converters: Registry[specs.WeightConverter] = Registry("weight converter")
        self.reports: list[PluginReport] = []
        self._add(BUILTIN, builtin)
        for entry_point in _chosen(installed_plugins() if plugins is None else plugins):
            self.reports.append(self._load(entry_point))

    @property
    def failed(self) -> list[str]:
        return [report.name for report in self.reports if report.error]

    def handler(self, name: str) -> Component[specs.DatasetHandler]:
        try:
            return self.handlers.find(name, failed_plugins=self.failed)
        except ConfigError as error:
            if name not in ELSEWHERE:
                raise
            why, remedy = ELSEWHERE[name]
            raise ConfigError(error.code, f"the handler {name!r} {why}", help=remedy) from error

    def template(self, name: str) -> Component[specs.PromptTemplate]:
        return self.templates.find(name, failed_plugins=self.failed)

    def strategy(self, name: str) -> Component[specs.PackingStrategy]:
        return self.strategies.find(name, failed_plugins=self.failed)

    def metric_sink(self, name: str) -> Component[specs.MetricSink]:
        return self.metric_sinks.find(name, failed_plugins=self.failed)

    def _load(self, entry_point: EntryPoint) -> PluginReport:
        distribution = entry_point.dist.name if entry_point.dist else "?"
        version = entry_point.dist.version if entry_point.dist else "?"
        try:
            hooks = self._add(entry_point.name, entry_point.load())
        except (Exception, SystemExit) as error:
            message = error.message if isinstance(error, SeqpackError) else f"{type(error).__name__}: {error}"
            return PluginReport(entry_point.name, distribution, version, (), message)
        return PluginReport(entry_point.name, distribution, version, hooks)

    def _add(self, name: str, module: ModuleType) -> tuple[str, ...]:
        """Register one plugin, all of it or nothing; returns the hooks it implements."""
        wanted = getattr(module, "SEQPACK_PLUGIN_API", specs.SEQPACK_PLUGIN_API)
        if wanted != specs.SEQPACK_PLUGIN_API:
            raise PluginError("SP011", f"written for plugin API {wanted}, this is {specs.SEQPACK_PLUGIN_API}")
        hooks = _implementations(name, module)
        # Names are tried on copies first: a plugin whose third hook clashes leaves no trace of the other two.
        for rehearse in (True, False):
            for hook, registry in self._registries().items():
                if hook in hooks:
                    target = _copy(registry) if rehearse else registry
                    target.add_all(_owned(hooks[hook](), name))
        return tuple(sorted(hooks))

    def _registries(self) -> dict[str, Registry[Any]]:
        return {
            "seqpack_handlers": self.handlers,
            "seqpack_templates": self.templates,
            "seqpack_strategies": self.strategies,
            "seqpack_metric_sinks": self.metric_sinks,
            "seqpack_weight_converters": self.weight_converters,
        }


def installed_plugins() -> list[EntryPoint]:
    """Entry points of the group ``seqpack``, in the order of their names."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry_point: entry_point.name)


@functools.cache
def plugin_host() -> PluginHost:
    """The host of this process, made on first use."""
    return PluginHost()


def _chosen(plugins: Iterable[EntryPoint]) -> list[EntryPoint]:
    """``SEQPACK_LOAD_PLUGINS=a,b`` loads only those; set but empty, none: the way to find out which plugin does it."""
    wanted = os.environ.get(LOAD_PLUGINS_VARIABLE)
    if wanted is None:
        return list(plugins)
    names = {name.strip() for name in wanted.split(",")}
    return [plugin for plugin in plugins if plugin.name in names]


Hook = Callable[[], Iterable[Component[Any]]]


def _implementations(name: str, module: ModuleType) -> dict[str, Hook]:
    """The hooks a module implements, checked by pluggy: an unknown hook name or argument is an error."""
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    manager.register(module, name=name)
    manager.check_pending()
    callers = manager.get_hookcallers(module) or []
    return {caller.name: cast("Hook", caller.get_hookimpls()[0].function) for caller in callers}


def _owned(components: Iterable[Component[Any]], plugin: str) -> list[Component[Any]]:
    listed = list(components)
    for component in listed:
        if not isinstance(component, Component):
            raise PluginError("SP012", f"a hook of plugin {plugin!r} must give Components, not {component!r}")
    return [component.owned_by(plugin) for component in listed]


def _copy(registry: Registry[Any]) -> Registry[Any]:
    copy: Registry[Any] = Registry(registry.kind)
    copy.add_all(registry)
    return copy
