"""A named thing a plugin offers, and the registry it is looked up in by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from seqpack.core.errors import ConfigError, PluginError, SeqpackError
from seqpack.core.suggest import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)  # no slots: Component[Kind](...) fails with them on Python 3.11
class Component(Generic[T]):
    """One handler, template or strategy; nothing behind it is imported until its name is chosen.

    ``target`` is ``"package.module:Name"``, or for a template ``"package:file.yaml"`` (a file inside the package) or an
    absolute path. ``plugin`` is filled in by the host.
    """

    name: str
    target: str
    summary: str
    aliases: tuple[str, ...] = ()
    plugin: str = ""

    def load(self) -> Any:
        """Import the module and return what the target names; PluginError if either is missing."""
        module_name, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:
            raise PluginError(
                "SP012",
                f"{self.name!r} of plugin {self.plugin!r} cannot be loaded from {self.target!r}: "
                f"{type(error).__name__}: {error}",
                help="mend or uninstall that plugin, or choose another name",
            ) from error

    def create(self, *arguments: Any, by: str = "") -> Any:
        """Call what the target names, or its method ``by``; an error that is not one of ours becomes a PluginError."""
        factory = getattr(self.load(), by) if by else self.load()
        try:
            return factory(*arguments)
        except SeqpackError:
            raise
        except Exception as error:
            raise PluginError(
                "SP012",
                f"{self.name!r} of plugin {self.plugin!r} cannot be made: {type(error).__name__}: {error}",
                help="mend or uninstall that plugin, or choose another name",
            ) from error

    def owned_by(self, plugin: str) -> Component[T]:
        return replace(self, plugin=plugin)


class Registry(Generic[T]):
    """Components of one kind by name, alias and ``plugin:name``; a name that is taken cannot be taken again."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._by_name: dict[str, Component[T]] = {}
        self._components: list[Component[T]] = []

    def add_all(self, components: Iterable[Component[T]]) -> None:
        """Add the components of one plugin: all of them or, when a name is taken, none."""
        added: dict[str, Component[T]] = {}
        listed = list(components)
        for component in listed:
            for name in (component.name, *component.aliases):
                holder = self._by_name.get(name) or added.get(name)
                if holder is not None:
                    raise PluginError("SP013", f"{self.kind} {name!r} is already taken by plugin {holder.plugin!r}")
                added[name] = component
            added[f"{component.plugin}:{component.name}"] = component
        self._by_name |= added
        self._components += listed

    def __iter__(self) -> Iterator[Component[T]]:
        return iter(sorted(self._components, key=lambda component: component.name))

    def names(self) -> list[str]:
        """All names and aliases, without the ``plugin:name`` forms."""
        return sorted(name for name in self._by_name if ":" not in name)

    def find(self, name: str, *, failed_plugins: Iterable[str] = ()) -> Component[T]:
        """The component of that name; ConfigError with the nearest name and the plugins that could not be loaded."""
        if name in self._by_name:
            return self._by_name[name]
        lost = ", ".join(failed_plugins)
        known = ", ".join(component.name for component in self)
        hints = (
            did_you_mean(name, self._by_name),
            f"known: {known}" if known else f"no plugin with a {self.kind} is installed (see: seqpack plugins)",
            f"not loaded: {lost} (see: seqpack plugins)" if lost else "",
        )
        raise ConfigError("SP002", f"no {self.kind} {name!r}", help="; ".join(hint for hint in hints if hint))
