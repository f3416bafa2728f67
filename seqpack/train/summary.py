"""What a run is about to do, and what it did, for people and programs; free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What really runs, with every default filled in; ``notes`` say what was filled in and from where.

    ``num_tokens`` and ``num_targets`` are those of all steps, exactly. ``state_bytes`` is what weights, gradients and
    optimizer take in each process, without activations.
    """

    data: str
    num_rows: int
    num_steps: int
    epochs: float
    global_batch_size: int
    micro_batch_size: int
    num_tokens: int
    num_targets: int
    packed: bool
    mask: str
    model: str
    model_type: str
    num_parameters: int
    random_weights: bool
    dtype: str
    device: str
    attention: str
    parallel: str
    lr: float
    lr_decay_style: str
    warmup_steps: int
    save: str
    first_step: int = 0
    state_bytes: int = 0
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ContextPrice:
    """An algorithm of context parallelism for the rows of a run, means over micro-batches, of attention in one layer.

    ``bytes_sent`` is what the rank that sends most sends, forward and backward; ``balance`` is its work over the mean
    work; ``seconds`` are reckoned, not measured; ``taken`` is the share of micro-batches for which ``auto`` takes it.
    """

    algorithm: str
    bytes_sent: float
    balance: float
    worst_balance: float
    seconds: float
    taken: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one process sends along an axis of the mesh in a step."""

    axis: str
    what: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LayoutEstimate:
    """A layout, reckoned: bytes of the process that needs most. ``weights`` are those it computes with.

    ``state_bytes`` are masters, gradients and moments as sharded, ``gathered_bytes`` weights and gradients that are
    whole for a time. ``bubble`` is the share of a step that a pipeline waits.
    """

    ranks: int
    layout: str
    weights: int
    state_bytes: int
    gathered_bytes: int
    activation_bytes: int
    bubble: float
    traffic: tuple[Traffic, ...]

    @property
    def total_bytes(self) -> int:
        return self.state_bytes + self.gathered_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run. ``first_loss`` and ``last_loss`` are means over a few steps. ``seconds`` are those of all
    steps, also of those before a resume; speeds count real tokens.
    """

    num_steps: int
    first_loss: float
    last_loss: float
    num_tokens: int
    num_targets: int
    num_padding: int
    seconds: float
    peak_memory: int
    model_path: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}
