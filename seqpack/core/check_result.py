"""What a check found, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckOutcome = Literal["passed", "failed", "skipped", "warning"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of a table of checks. ``seen`` says what was looked at and what came of it, or why nothing was.

    A warning is about what works, and may not for long or not well. ``size`` counts what was looked at, where several
    processes looked at different parts.
    """

    name: str
    outcome: CheckOutcome
    seen: str
    size: int = 0

    @classmethod
    def of(cls, name: str, fault: str, fine: str, size: int = 0) -> CheckResult:
        """Failed with ``fault``, or passed with ``fine`` if there is none."""
        return cls(name, "failed" if fault else "passed", fault or fine, size)


def all_passed(checks: tuple[CheckResult, ...]) -> bool:
    """Whether none failed; one that was skipped, or warns, did not."""
    return all(check.outcome != "failed" for check in checks)
