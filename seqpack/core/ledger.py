"""The token ledger: every token that was read is trained on, context, truncated or dropped, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Count:
    """So many samples with so many tokens."""

    samples: int = 0
    tokens: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.samples + other.samples, self.tokens + other.tokens)


DUPLICATE = "duplicate of another sample"
"""The reason ``--dedup`` drops for; it was asked for, so it is no loss."""


@dataclass(slots=True)
class Ledger:
    """What happened to every row and token of a data set.

    ``rejected`` rows have no tokens, since they could not be read as samples. ``read`` counts the others before
    anything was cut; ``truncated`` samples that were shortened, and the tokens they lost; ``dropped`` whole samples.
    ``repeated`` are samples and tokens beyond those that were read: the further parts of a sample that was split, and
    what each part has again, such as the system message.
    ``mended`` rows had text that is not Unicode; they are among the others.
    """

    rejected: dict[str, int] = field(default_factory=dict)
    read: Count = Count()
    truncated: Count = Count()
    dropped: dict[str, Count] = field(default_factory=dict)
    kept: Count = Count()
    trained: int = 0
    context: int = 0
    padding: int = 0
    mended: int = 0
    repeated: Count = Count()

    def reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def drop(self, reason: str, num_tokens: int) -> None:
        self.read += Count(1, num_tokens)
        self.dropped[reason] = self.dropped.get(reason, Count()) + Count(1, num_tokens)

    def keep(self, num_tokens: int, num_trained: int, *, original: int | None = None) -> None:
        """One sample of ``num_tokens``, cut from ``original`` tokens if that is more."""
        original = num_tokens if original is None else original
        self.read += Count(1, original)
        self.kept += Count(1, num_tokens)
        self.trained += num_trained
        self.context += num_tokens - num_trained
        if original > num_tokens:
            self.truncated += Count(1, original - num_tokens)

    def split(self, lengths: Sequence[int], num_trained: int, *, original: int, repeated: int, lost: int) -> None:
        """One sample of ``original`` tokens that became several, of ``lengths``; ``lost`` of its tokens are in none."""
        self.read += Count(1, original)
        self.kept += Count(len(lengths), sum(lengths))
        self.trained += num_trained
        self.context += sum(lengths) - num_trained
        self.repeated += Count(len(lengths) - 1, repeated)
        if lost:
            self.truncated += Count(1, lost)

    def keep_whole(self, samples: int, num_tokens: int, num_trained: int) -> None:
        """So many samples, nothing of which was cut."""
        self.read += Count(samples, num_tokens)
        self.kept += Count(samples, num_tokens)
        self.trained += num_trained
        self.context += num_tokens - num_trained

    def add(self, other: Ledger) -> None:
        """Count another part of the data, which comes after this one: reasons stay in the order they came up."""
        for reason, rows in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + rows
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, Count()) + count
        self.read += other.read
        self.truncated += other.truncated
        self.kept += other.kept
        self.trained += other.trained
        self.context += other.context
        self.padding += other.padding
        self.mended += other.mended
        self.repeated += other.repeated

    def unkeep(self, reason: str, num_tokens: int, num_trained: int) -> None:
        """Drop a sample that was kept so far."""
        self.kept += Count(-1, -num_tokens)
        self.trained -= num_trained
        self.context -= num_tokens - num_trained
        self.dropped[reason] = self.dropped.get(reason, Count()) + Count(1, num_tokens)

    def untrain(self, num_tokens: int) -> None:
        """So many tokens of kept samples that were trained on are context after all."""
        self.trained -= num_tokens
        self.context += num_tokens

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def all_dropped(self) -> Count:
        return sum(self.dropped.values(), Count())

    @property
    def rows(self) -> int:
        return self.read.samples + self.num_rejected

    @property
    def loss_share(self) -> float:
        """Share of rows that are not in the output at all, those left out as duplicates not counted."""
        lost = self.num_rejected + self.all_dropped.samples - self.dropped.get(DUPLICATE, Count()).samples
        return lost / self.rows if self.rows else 0.0

    def check(self) -> None:
        """read + repeated = trained + context + truncated + dropped, in tokens and samples. A failure is our bug."""
        given = self.read + self.repeated
        assert given.tokens == self.trained + self.context + self.truncated.tokens + self.all_dropped.tokens, self
        assert given.samples == self.kept.samples + self.all_dropped.samples, self
        assert self.kept.tokens == self.trained + self.context, self

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ledger:
        return cls(
            rejected=dict(value["rejected"]),
            read=Count(**value["read"]),
            truncated=Count(**value["truncated"]),
            dropped={reason: Count(**count) for reason, count in value["dropped"].items()},
            kept=Count(**value["kept"]),
            trained=value["trained"],
            context=value["context"],
            padding=value["padding"],
            mended=value.get("mended", 0),  # older manifests have none, and none of the next
            repeated=Count(**value.get("repeated", {})),
        )
