"""What seqpack itself offers, through the same hooks as everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqpack.hooks.component import Component
from seqpack.hooks.specs import DatasetHandler, PackingStrategy, PromptTemplate, WeightConverter, hookimpl


@hookimpl
def seqpack_handlers() -> Iterator[Component[DatasetHandler]]:
    yield Component(
        "AlpacaStyleInstructionHandler",
        "seqpack.handlers.alpaca:AlpacaHandler",
        "instruction, input, output; optional system and history",
        aliases=("alpaca",),
    )
    yield Component(
        "SharegptStyleInstructionHandler",
        "seqpack.handlers.sharegpt:SharegptHandler",
        "conversations of {from, value}; optional system and tools",
        aliases=("sharegpt",),
    )
    yield Component(
        "OpenAIInstructionHandler",
        "seqpack.handlers.openai:OpenAIHandler",
        "messages of {role, content, tool_calls, reasoning_content}; optional tools",
        aliases=("openai",),
    )
    yield Component(
        "GeneralInstructionHandler",
        "seqpack.handlers.alpaca:GeneralInstructionHandler",
        "instruction, input, output and nothing else",
    )
    yield Component(
        "LlamaFactoryInstructionHandler",
        "seqpack.handlers.llamafactory:LlamaFactoryHandler",
        "data sets by name out of --dataset-dir/dataset_info.json",
        aliases=("llamafactory",),
    )
    yield Component(
        "AlpacaStylePairwiseHandler",
        "seqpack.handlers.pairwise:AlpacaPairwiseHandler",
        "preference pairs: instruction, input, chosen, rejected",
        aliases=("pairwise",),
    )
    yield Component(
        "SharegptStylePairwiseHandler",
        "seqpack.handlers.pairwise:SharegptPairwiseHandler",
        "preference pairs: conversations, chosen, rejected",
        aliases=("sharegpt-pairwise",),
    )
    yield Component(
        "PPOAlpacaStyleInstructionHandler",
        "seqpack.handlers.question:AlpacaPromptHandler",
        "prompts for reinforcement learning: instruction, input",
        aliases=("ppo",),
    )
    yield Component(
        "R1AlpacaStyleInstructionHandler",
        "seqpack.handlers.question:AlpacaQuestionHandler",
        "prompts with the columns of --dataset-additional-keys, out of Alpaca rows",
        aliases=("r1-alpaca",),
    )
    yield Component(
        "R1SharegptStyleInstructionHandler",
        "seqpack.handlers.question:SharegptQuestionHandler",
        "prompts with the columns of --dataset-additional-keys, out of ShareGPT rows",
        aliases=("r1-sharegpt",),
    )
    yield Component(
        "GeneralPretrainHandler",
        "seqpack.handlers.pretrain:GeneralPretrainHandler",
        "pretraining text: the columns of --json-keys, a document each",
        aliases=("text",),
    )
    yield Component(
        "AlpacaPretrainHandler",
        "seqpack.handlers.pretrain:AlpacaPretrainHandler",
        "pretraining text: instruction, input, output inside a fixed text",
    )
    yield Component(
        "SharegptPretrainHandler",
        "seqpack.handlers.pretrain:SharegptPretrainHandler",
        "pretraining text: the turns of a conversation, joined",
    )


@hookimpl
def seqpack_templates() -> Iterator[Component[PromptTemplate]]:
    for path in sorted(templates_folder().glob("*.yaml")):
        yield Component(path.stem, str(path), _summary(path))


@hookimpl
def seqpack_strategies() -> Iterator[Component[PackingStrategy]]:
    yield Component(
        "balanced",
        "seqpack.packing.balanced:Balanced",
        "fewest packs within 0.1 %, long and short samples mixed, equal attention cost",
        aliases=("deal",),
    )
    yield Component(
        "bfd",
        "seqpack.packing.best_fit:BestFit",
        "best-fit decreasing: longest first, each into the fullest pack it fits",
        aliases=("best-fit", "best_fit_decreasing"),
    )
    yield Component(
        "ffd",
        "seqpack.packing.first_fit:FirstFit",
        "first-fit decreasing: longest first, each into the first pack it fits",
        aliases=("greedy", "greedy_knapsack", "knapsack"),
    )
    yield Component("exact", "seqpack.packing.exact:Exact", "fewest packs without a solver: bfd with exact completion")
    yield Component(
        "optimal",
        "seqpack.packing.optimal:Optimal",
        "fewest packs by column generation, for sets without short samples; needs seqpack-toolkit[optimal]",
        aliases=("cutting_stock",),
    )
    yield Component(
        "shuffle",
        "seqpack.packing.shuffle:Shuffle",
        "first-fit in random order",
        aliases=("first_fit_shuffle",),
    )
    yield Component(
        "sequential",
        "seqpack.packing.sequential:Sequential",
        "next-fit: keep the order, open a new pack when a sample does not fit",
        aliases=("next_fit",),
    )
    yield Component(
        "wrapped",
        "seqpack.packing.wrapped:Wrapped",
        "concatenate and cut: keep the order, no padding, samples on a border are cut; for pretraining",
        aliases=("concat",),
    )
    yield Component(
        "stream",
        "seqpack.packing.stream:Stream",
        "best-fit over a buffer of 4,096 that is carried on; order nearly kept, constant memory",
        aliases=("online",),
    )


@hookimpl
def seqpack_weight_converters() -> Iterator[Component[WeightConverter]]:
    families = "seqpack.convert.families"
    yield Component("llama", f"{families}:LLAMA", "Llama 2 and 3")
    yield Component("mistral", f"{families}:MISTRAL", "Mistral")
    yield Component("qwen2", f"{families}:QWEN2", "Qwen2 and Qwen2.5: biases of q, k and v")
    yield Component("qwen3", f"{families}:QWEN3", "Qwen3: norms of q and k")
    yield Component("qwen3_moe", f"{families}:QWEN3_MOE", "Qwen3-MoE: experts, norms of q and k")
    yield Component("mixtral", f"{families}:MIXTRAL", "Mixtral: experts")


def templates_folder() -> Path:
    """Where the template files are: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "_templates"
    return installed if installed.is_dir() else package.parent / "templates"


def _summary(path: Path) -> str:
    """The comment on a template file's first line."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
