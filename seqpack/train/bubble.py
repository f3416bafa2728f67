"""How long the ranks of a pipeline wait and how many activations they keep, by going through torch's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.pipelining.schedules import get_schedule_class

if TYPE_CHECKING:
    from seqpack.models.stages import PipelineCut

SECONDS = {"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}
"""A forward pass of a stage, its backward pass, and the two halves of that: gradients of inputs and of weights."""


@dataclass(frozen=True, slots=True)
class Course:
    """One step of a pipeline whose stages all cost the same.

    ``bubble`` is the share of their time that ranks wait. ``kept[r]`` are the most forward passes of a stage whose
    activations rank r has at once.
    """

    bubble: float
    kept: tuple[int, ...]


def course(cut: PipelineCut, num_batches: int) -> Course:
    """The course of a step of ``num_batches`` micro-batches; nothing is computed and nothing sent."""
    order = _order(cut, num_batches)
    ends: dict[tuple[str, int, int], float] = {}
    clocks, places = [0.0] * cut.size, [0] * cut.size
    last = len(cut.layers) - 1
    while any(place < len(order[rank]) for rank, place in enumerate(places)):
        before = sum(places)
        for rank, actions in enumerate(order):
            while places[rank] < len(actions):
                kind, stage, batch = actions[places[rank]]
                needs = _needs(kind, stage, batch, last)
                if not all(need in ends for need in needs):
                    break
                clocks[rank] = max([clocks[rank], *(ends[need] for need in needs)]) + SECONDS[kind]
                ends["I" if kind == "B" else kind, stage, batch] = clocks[rank]
                places[rank] += 1
        assert sum(places) > before, "the schedule waits for itself"
    busy = sum(SECONDS[kind] for actions in order for kind, _, _ in actions)
    return Course(1 - busy / (max(clocks) * cut.size), tuple(map(_most_kept, order)))


def _needs(kind: str, stage: int, batch: int, last: int) -> list[tuple[str, int, int]]:
    """What has to be over: passes of neighbouring stages, and the earlier pass of the same."""
    if kind == "F":
        return [("F", stage - 1, batch)] if stage else []
    if kind == "W":
        return [("I", stage, batch)]
    return [("F", stage, batch), *([("I", stage + 1, batch)] if stage < last else [])]


def _most_kept(actions: list[tuple[str, int, int]]) -> int:
    kept = most = 0
    for kind, _, _ in actions:
        kept += {"F": 1, "B": -1, "I": 0, "W": -1}[kind]
        most = max(most, kept)
    return most


def _order(cut: PipelineCut, num_batches: int) -> list[list[tuple[str, int, int]]]:
    """What each rank does: kind of pass, stage and micro-batch."""
    if cut.stages_per_rank == 1:
        return [_one_forward_one_backward(rank, cut.size, num_batches) for rank in range(cut.size)]
    outlines = [_Outline(cut, stage) for stage in cut.of_rank(0)]
    kind: Any = get_schedule_class(cut.schedule)
    schedule = kind(outlines, num_batches)
    found = []
    for rank in range(cut.size):
        actions = [action for action in schedule.pipeline_order[rank] if action is not None]
        named = [(action.computation_type.value, action.stage_index, action.microbatch_index) for action in actions]
        found.append([action for action in named if action[0] in SECONDS])
    return found


def _one_forward_one_backward(rank: int, size: int, num_batches: int) -> list[tuple[str, int, int]]:
    """As torch runs it; what torch says of this schedule leaves out the first micro-batch of the last rank."""
    ahead = min(num_batches, size - rank)
    actions = [("F", rank, batch) for batch in range(ahead)]
    for batch in range(num_batches):
        actions.append(("B", rank, batch))
        if batch + ahead < num_batches:
            actions.append(("F", rank, batch + ahead))
    return actions


class _Outline:
    """As much of a stage as a schedule looks at before it runs."""

    def __init__(self, cut: PipelineCut, stage: int) -> None:
        self.stage_index, self.num_stages = stage, len(cut.layers)
        self.group_size, self.group_rank = cut.size, 0
        self.is_first, self.is_last = stage == 0, stage == len(cut.layers) - 1
        self.has_backward = True
        self.submod = nn.Identity()
        self.stage_index_to_group_rank: dict[int, int] = {}
