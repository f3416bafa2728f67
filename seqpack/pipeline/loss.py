"""What becomes known of a row that is not in the set, or not as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["rejected", "dropped", "truncated", "split", "mended"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A row that is not in the set, or not as it was: one line of ``rejects.jsonl``.

    ``tokens`` are those that were lost, but of a row that was split, those that its parts have in common.
    """

    key: str
    outcome: Outcome
    reason: str
    tokens: int

    def to_json(self) -> str:
        value = {"key": self.key, "outcome": self.outcome, "reason": self.reason, "tokens": self.tokens}
        return json.dumps(value, ensure_ascii=False)
