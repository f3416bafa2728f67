"""``seqpack plugins``."""

from __future__ import annotations

from seqpack.options.output import OutputOptions


def plugins(output: OutputOptions) -> None:
    """All handlers, templates and strategies, and the plugins they come from; a broken plugin is listed with its error.

    Examples:
        seqpack plugins
        seqpack plugins --json
        SEQPACK_LOAD_PLUGINS= seqpack plugins
    """
    import dataclasses
    from typing import Any

    from seqpack.hooks.component import Registry
    from seqpack.hooks.host import plugin_host
    from seqpack.report.console import Console
    from seqpack.report.plugins import component_table, plugin_table

    console = Console(output)
    host = plugin_host()
    registries: dict[str, Registry[Any]] = {
        "handlers": host.handlers,
        "templates": host.templates,
        "strategies": host.strategies,
        "metric sinks": host.metric_sinks,
        "weight converters": host.weight_converters,
    }
    console.print(component_table(registries), plugin_table(host.reports))
    for report in host.reports:
        if report.error:
            console.warn("SP012", f"plugin {report.name!r} is not used: {report.error}")
    listed = {kind: [dataclasses.asdict(component) for component in registry] for kind, registry in registries.items()}
    console.result({**listed, "plugins": [dataclasses.asdict(report) for report in host.reports]})
