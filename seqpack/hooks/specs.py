"""The hooks of plugin API 1, and the protocols that what they offer must follow.

A plugin is a module, named by an entry point of the group ``seqpack``, that implements any of the hooks:

    from seqpack.api import Component, hookimpl

    @hookimpl
    def seqpack_handlers():
        yield Component("tickets", "acme.tickets:TicketHandler", "Support tickets, one per row")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pluggy

from seqpack.core.errors import ConfigError
from seqpack.hooks.component import Component

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpack.core.plan import PackPlan
    from seqpack.core.types import Dialogue, Preference, Question, Sample, Span, TextSample

    Dialogues = Callable[[Sequence[Mapping[str, Any]]], Sequence[Dialogue | None]]

SEQPACK_PLUGIN_API = 1
"""A plugin module may state the API it was written for; another number marks it as failed instead of half-working."""

PROJECT = "seqpack"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


Columns = Mapping[str, Any]
"""``--map-keys``: parts of a sample to names of columns. None, or an empty name, switches a part off; ``tags`` of
conversations is a mapping itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerOptions:
    """Everything the command line says to a handler; empty where nothing was said."""

    columns: Columns
    json_keys: tuple[str, ...] = ()
    dataset_dir: Path | None = None
    additional_keys: tuple[str, ...] = ()

    def only(self, *names: str, handler: str) -> HandlerOptions:
        """These options themselves; ConfigError if one was given that is not among ``names``."""
        for field in fields(self):
            if field.name not in names and getattr(self, field.name):
                raise ConfigError(
                    "SP020",
                    f"handler {handler!r} does not use {_FLAGS[field.name]}",
                    help="leave the flag out, or choose the --handler it is meant for",
                )
        return self


_FLAGS = {"columns": "--map-keys", "json_keys": "--json-keys", "dataset_dir": "--dataset-dir"}
_FLAGS["additional_keys"] = "--dataset-additional-keys"


class DatasetHandler(Protocol):
    """Turns one record into samples: all ``Sample`` (conversations), or all ``TextSample`` (pretraining text), or all
    ``Preference`` or ``Question`` (see ``kind``).

    ``__init__`` takes ``columns``, the ``--map-keys`` mapping (empty if not given). A record that cannot be used raises
    ``RejectError(reason)``; it is counted and reported with its place. What a handler may have besides:

    - ``from_options(options: HandlerOptions)``, a class method, is called instead of the class if it needs more than
      ``columns``; without it, the other flags of ``HandlerOptions`` are refused for this handler.
    - ``text_keys``, a tuple of names, not empty: it gives ``TextSample``, with a text for each. Each name becomes
      part of the name of a file pair.
    - ``kind``, ``"pairwise"`` or ``"prompt"``: it gives ``Preference`` or ``Question``, which become sets of that kind.
      With it goes ``column_names``, how the columns of the set are called in the names of its files: four for a pair
      (ids and labels of the better reply, then of the other), for a prompt two and one for each further text.
    - ``dialogues(records)`` does many records at once, faster: for each a ``Dialogue`` if calling the handler gives
      one sample, of these roles and texts and nothing else; None for all others, which it is then called with. A
      class with a ``__call__`` of its own needs one of its own.
    - ``datasets(names)``: ``--input`` holds names of its own, not files; see ``DatasetCatalogue``.
    """

    def __call__(self, record: Mapping[str, Any]) -> Iterable[Sample | TextSample | Preference | Question]: ...


@runtime_checkable
class DatasetCatalogue(Protocol):
    """A handler that knows data sets by name, and how each is read."""

    def datasets(self, names: Iterable[str]) -> Iterable[tuple[Path, DatasetHandler]]:
        """A file or folder, and the handler of its rows, for each name; ConfigError for an unknown one."""
        ...


def make_handler(component: Component[DatasetHandler], options: HandlerOptions) -> DatasetHandler:
    """The handler behind a name. Raises PluginError if it cannot be made, ConfigError for options it does not take."""
    by = "from_options"
    if hasattr(component.load(), by):
        handler: DatasetHandler = component.create(options, by=by)
    else:
        handler = component.create(options.only("columns", handler=component.name).columns)
    return handler


def dialogues_of(handler: DatasetHandler) -> Dialogues | None:
    """The handler's ``dialogues``, if it has one that speaks of its own way to read a record.

    One that it inherits from a class below that of its ``__call__`` speaks of that class.
    """
    for kind in type(handler).__mro__:
        if "dialogues" in vars(kind):
            found: Dialogues = handler.dialogues  # type: ignore[attr-defined]  # not every handler has one
            return found
        if "__call__" in vars(kind):
            return None
    return None


class PromptTemplate(Protocol):
    """Renders a sample as spans of text; what is trained on is decided per span."""

    def spans(self, sample: Sample) -> Iterable[Span]: ...


class PackingStrategy(Protocol):
    """Decides which samples share a pack; knows lengths only.

    ``lengths``: integers ``[samples]``, each from 1 to ``seq_length``. Every sample must be placed exactly once. What a
    strategy may have besides:

    - a parameter ``max_docs`` of ``plan``, the most samples a pack may hold, or None; without it, ``--max-docs`` is
      refused for this strategy.
    - ``cuts_samples = True``: it may cut samples, which then may be longer than ``seq_length``.
    - ``takes_any_integer = True``: ``lengths`` come as they are, of any width, maybe a memory map; otherwise as int64.
    """

    def plan(self, lengths: NDArray[np.integer], *, seq_length: int, rng: np.random.Generator) -> PackPlan: ...


class WeightConverter(Protocol):
    """A model family whose weights can be converted: a ``seqpack.api.WeightConverter``, which is a table of rules.

    The target of its component names the table itself. The component's name is the ``model_type`` of ``config.json``.
    """

    @property
    def name(self) -> str: ...
    @property
    def architectures(self) -> tuple[str, ...]: ...


class MetricSink(Protocol):
    """Somewhere to write metrics to, step by step; steps are numbered from 1.

    ``__init__(folder, run)`` takes the directory of ``--save`` and what the run's header says, by name. Only the first
    process of a run makes one.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@hookspec
def seqpack_handlers() -> Iterable[Component[DatasetHandler]]:  # type: ignore[empty-body]
    """Dataset handlers: ``--handler NAME``."""


@hookspec
def seqpack_templates() -> Iterable[Component[PromptTemplate]]:  # type: ignore[empty-body]
    """Prompt templates: ``--prompt-type NAME``. A target ``package:file.yaml`` names a template file."""


@hookspec
def seqpack_strategies() -> Iterable[Component[PackingStrategy]]:  # type: ignore[empty-body]
    """Packing strategies: ``--strategy NAME``."""


@hookspec
def seqpack_metric_sinks() -> Iterable[Component[MetricSink]]:  # type: ignore[empty-body]
    """Metric sinks: ``--metrics NAME``."""


@hookspec
def seqpack_weight_converters() -> Iterable[Component[WeightConverter]]:  # type: ignore[empty-body]
    """Model families that ``seqpack convert`` knows, by the ``model_type`` of their ``config.json``."""
