"""Every hook is documented, takes its name from the project, and has a home in the host."""

from __future__ import annotations

from pathlib import Path

import pluggy
import pytest

from seqpack.hooks import specs
from seqpack.hooks.host import PluginHost

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def hooks() -> list[str]:
    manager = pluggy.PluginManager(specs.PROJECT)
    manager.add_hookspecs(specs)
    return sorted(name for name in vars(manager.hook) if not name.startswith("_"))


def test_there_are_hooks():
    assert hooks() == [
        "seqpack_handlers",
        "seqpack_metric_sinks",
        "seqpack_strategies",
        "seqpack_templates",
        "seqpack_weight_converters",
    ]


@pytest.mark.parametrize("hook", hooks())
def test_a_hook_is_documented(hook):
    assert getattr(specs, hook).__doc__
    assert f"`{hook}`" in CONTRIBUTING.read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", hooks())
def test_the_host_asks_every_hook(hook):
    assert hook in PluginHost([])._registries()
