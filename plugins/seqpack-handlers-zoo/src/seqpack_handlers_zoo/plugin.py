"""What this package offers to seqpack; nothing named here is imported until somebody chooses it."""

from collections.abc import Iterator

from seqpack.api import Component, DatasetHandler, hookimpl

SEQPACK_PLUGIN_API = 1


@hookimpl
def seqpack_handlers() -> Iterator[Component[DatasetHandler]]:
    for name, module, summary in (
        ("BelleMultiTurnInstructionHandler", "belle", "BELLE multiturn chat: Human: and Assistant: in one text"),
        ("MOSSMultiTurnHandler", "moss", "MOSS chats, every reply trained on"),
        ("MOSSInstructionHandler", "moss", "MOSS chats, a sample for each turn"),
        ("LeetcodePythonInstructionHandler", "code", "LeetCode problems with code and explanation"),
        ("StackOverflowPythonPretrainHandler", "code", "pretraining text: questions and answers about Python"),
    ):
        yield Component(name, f"seqpack_handlers_zoo.{module}:{name}", summary)
