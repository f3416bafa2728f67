"""What every command accepts about how it talks."""

from __future__ import annotations

from dataclasses import dataclass

from seqpack.options.field import option


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """Messages"""

    json: bool = option(False, "Print one JSON object on stdout; messages go to stderr.", negation=False)
    quiet: bool = option(False, "Print only the result and errors.", short="-q", negation=False)
    verbose: bool = option(False, "Print more about what is done and why.", short="-v", negation=False)
    traceback: bool = option(False, "Show the Python traceback of an error.", negation=False)
