"""What this package offers to seqpack; nothing named here is imported until somebody chooses it."""

from collections.abc import Iterator

from seqpack.api import Component, DatasetHandler, PackingStrategy, PromptTemplate, WeightConverter, hookimpl

SEQPACK_PLUGIN_API = 1


@hookimpl
def seqpack_handlers() -> Iterator[Component[DatasetHandler]]:
    yield Component("tickets", "seqpack_acme.tickets:TicketHandler", "support tickets: subject, body, answer")


@hookimpl
def seqpack_templates() -> Iterator[Component[PromptTemplate]]:
    yield Component("acme-chat", "seqpack_acme:acme-chat.yaml", "ChatML with ACME's system message")


@hookimpl
def seqpack_strategies() -> Iterator[Component[PackingStrategy]]:
    yield Component(
        "longest-first",
        "seqpack_acme.longest_first:LongestFirst",
        "longest first, each into the first pack with room",
        aliases=("by-length",),
    )


@hookimpl
def seqpack_weight_converters() -> Iterator[Component[WeightConverter]]:
    yield Component("acme", "seqpack_acme.weights:ACME", "Llama with a bias behind attention")
