"""The hooks of plugin API 1, and the protocols that what they offer must follow.

A plugin is a module, named by an entry point of the group ``seqpack``, that implements any of the hooks:

    from seqpack.api import Component, hookimpl

    @hookimpl
    def seqpack_handlers():
        yield Component("tickets", "acme.tickets:TicketHandler", "Support tickets, one per row")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from seqpack.hooks.component import Component

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.core.plan import PackPlan
    from seqpack.core.types import Sample, Span

SEQPACK_PLUGIN_API = 1
"""A plugin module may state the API it was written for; another number marks it as failed instead of half-working."""

PROJECT = "seqpack"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class DatasetHandler(Protocol):
    """Turns one record into samples.

    ``__init__`` takes ``columns``, the ``--map-keys`` mapping (empty if not given). A record that cannot be used raises
    ``RejectError(reason)``; it is counted and reported with its place.
    """

    def __call__(self, record: Mapping[str, Any]) -> Iterable[Sample]: ...


class PromptTemplate(Protocol):
    """Renders a sample as spans of text; what is trained on is decided per span."""

    def spans(self, sample: Sample) -> Iterable[Span]: ...


class PackingStrategy(Protocol):
    """Decides which samples share a pack; knows lengths only.

    ``lengths``: int64 ``[samples]``, each from 1 to ``seq_length``. Every sample must be placed exactly once.
    """

    def plan(self, lengths: NDArray[np.int64], *, seq_length: int, rng: np.random.Generator) -> PackPlan: ...


@hookspec
def seqpack_handlers() -> Iterable[Component[DatasetHandler]]:  # type: ignore[empty-body]
    """Dataset handlers: ``--handler NAME``."""


@hookspec
def seqpack_templates() -> Iterable[Component[PromptTemplate]]:  # type: ignore[empty-body]
    """Prompt templates: ``--prompt-type NAME``. A target ``package:file.yaml`` names a template file."""


@hookspec
def seqpack_strategies() -> Iterable[Component[PackingStrategy]]:  # type: ignore[empty-body]
    """Packing strategies: ``--strategy NAME``."""
