"""What ``seqpack verify`` found; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqpack.core.check_result import CheckResult, all_passed


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All checks of one run of ``seqpack verify``; ``on`` says what they ran on, ``notes`` what else to know."""

    on: dict[str, str]
    checks: tuple[CheckResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all_passed(self.checks)

    def as_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def over_ranks(results: Sequence[Sequence[CheckResult]]) -> tuple[CheckResult, ...]:
    """The checks of all ranks as one list: a check that failed on some rank failed, and says on which.

    Else the rank that looked at most speaks for all; those that had nothing to look at skipped the check.
    """
    merged = []
    for of_ranks in zip(*results, strict=True):
        failed = [rank for rank, check in enumerate(of_ranks) if check.outcome == "failed"]
        most = max(of_ranks, key=lambda check: (check.outcome == "passed", check.size))
        check = of_ranks[failed[0]] if failed else most
        if failed and len(of_ranks) > 1:
            where = f"rank{'s' if len(failed) > 1 else ''} {', '.join(map(str, failed))}"
            check = CheckResult(check.name, "failed", f"{where}: {check.seen}", check.size)
        merged.append(check)
    return tuple(merged)
