"""The options of ``seqpack train`` about processes that share rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seqpack.core.errors import ConfigError
from seqpack.options.field import option

RINGS = frozenset({"ring", "megatron_cp_algo", "hybrid", "hybrid_cp_algo", "auto"})
HYBRIDS = frozenset({"hybrid", "hybrid_cp_algo", "auto"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextOptions:
    """Context parallelism"""

    context_parallel_algo: Literal[
        "auto",
        "headdoc",
        "planned",
        "needed",
        "ring",
        "ulysses",
        "hybrid",
        "kvallgather",
        "megatron_cp_algo",
        "ulysses_cp_algo",
        "hybrid_cp_algo",
        "kvallgather_cp_algo",
    ] = option(
        "auto",
        "How ranks of --cp share a row. auto takes the cheapest for each row; --dry-run shows what each would cost. "
        "All give the same result.",
        flags=("--context-parallel-algo", "--cp-algo"),
    )
    cp_plan: Literal["zigzag", "contiguous", "per-document", "document-aware"] | None = option(
        None, "Which tokens of a row a rank holds under ring and hybrid. Default: zigzag."
    )
    cp_window_size: int | None = option(
        None, "Under ring and hybrid: neighbours that form an inner ring (double ring). Default: all.", min=1
    )
    ulysses_degree_in_cp: int | None = option(
        None, "Under hybrid: neighbours that exchange heads. Default: as many as there are key heads for.", min=1
    )
    cp_link: float | None = option(
        None, "GB/s from one rank to another, by which auto and --dry-run reckon. Default: a guess for the device."
    )
    cp_device: Literal["cpu", "cuda", "npu"] | None = option(
        None, "Device that auto and --dry-run reckon with: an H100 or a 910B in a node. Default: that of --device."
    )
    attention_mask_type: Literal["causal", "general"] = option(
        "causal",
        "general builds the whole mask, to compare with: the same result, much slower.",
        flags=("--attention-mask-type", "--cp-attention-mask-type"),
    )
    use_cp_send_recv_overlap: bool = option(
        False, "What travels overlaps with what is computed in any case: the flag is accepted.", negation=False
    )

    def __post_init__(self) -> None:
        for flag, value, takers in (
            ("--cp-plan", self.cp_plan, RINGS),
            ("--cp-window-size", self.cp_window_size, RINGS),
            ("--ulysses-degree-in-cp", self.ulysses_degree_in_cp, HYBRIDS),
        ):
            if value is not None and self.context_parallel_algo not in takers:
                names = " and ".join(sorted(name for name in takers if "_" not in name and name != "auto"))
                raise ConfigError(
                    "SP208",
                    f"{flag} {value} is for --context-parallel-algo {names}, not {self.context_parallel_algo}",
                    help="leave one of them out",
                )
        if self.cp_link is not None and not 0 < self.cp_link < float("inf"):
            raise ConfigError("SP208", f"--cp-link is {self.cp_link:g}", help="give GB/s, such as 25")

    def notes(self, size: int) -> list[str]:
        """What has no effect with ``size`` processes to a row."""
        if size > 1 or self.context_parallel_algo == "auto":
            return []
        return ["no effect, no processes share rows: --context-parallel-algo"]
