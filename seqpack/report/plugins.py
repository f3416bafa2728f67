"""The screen of ``seqpack plugins``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from seqpack.hooks.component import Registry
    from seqpack.hooks.host import PluginReport


def component_table(registries: Mapping[str, Registry[Any]]) -> Table:
    """One line per component: kind, name, aliases, plugin, what it is for."""
    table = Table("kind", "name", "also called", "from", "what", box=None, pad_edge=False, header_style="bold")
    for kind, registry in registries.items():
        for component in registry:
            aliases = ", ".join(component.aliases)
            table.add_row(kind, *map(Text, (component.name, aliases, component.plugin, component.summary)))
    return table


def plugin_table(reports: Sequence[PluginReport]) -> Table | Text:
    """One line per installed plugin."""
    if not reports:
        return Text("\nno third-party plugins are installed", style="dim")
    table = Table("\nplugin", "\ndistribution", "\nhooks", box=None, pad_edge=False, header_style="bold")
    for report in reports:
        state = Text("not used: " + report.error, "red") if report.error else Text(", ".join(report.hooks))
        table.add_row(Text(report.name), Text(f"{report.distribution} {report.version}"), state)
    return table
