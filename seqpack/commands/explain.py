"""``seqpack explain``."""

from __future__ import annotations

from dataclasses import dataclass

from seqpack.options.field import option
from seqpack.options.output import OutputOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainOptions:
    """Code"""

    code: str = option(help="A code as errors and warnings print it, like SP103.", positional=True, metavar="CODE")


def explain(explain: ExplainOptions, output: OutputOptions) -> None:
    """What a diagnostic code means, why it comes up, and what to do.

    Examples:
        seqpack explain SP103
        seqpack explain SP203
        seqpack explain SP302 --json
    """
    from seqpack.core.diagnostics import DIAGNOSTICS
    from seqpack.core.errors import ConfigError
    from seqpack.core.suggest import did_you_mean
    from seqpack.report.console import Console

    code = explain.code.upper()
    if code not in DIAGNOSTICS:
        hint = did_you_mean(code, DIAGNOSTICS)
        raise ConfigError(
            "SP001", f"no diagnostic code {explain.code!r}", help=hint or f"codes: {', '.join(DIAGNOSTICS)}"
        )
    page = DIAGNOSTICS[code]
    console = Console(output)
    console.show(f"{code}: {page.title}\n\n{page.cause}\n\nWhat to do: {page.remedy}")
    console.result({"code": code, "title": page.title, "cause": page.cause, "remedy": page.remedy})
