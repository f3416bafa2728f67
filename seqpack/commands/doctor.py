"""``seqpack doctor``."""

from __future__ import annotations

from seqpack.options.doctor import DoctorOptions
from seqpack.options.output import OutputOptions


def doctor(doctor: DoctorOptions, output: OutputOptions) -> None:
    """What is on this machine, and whether preparing data and training would work with it.

    Versions that fit together, devices, which attention code is usable and why the rest is not, whether it computes
    what it should, tokenizers, plugins, disk, limits and network variables. Works without torch. Exit code 1 if
    something that is needed is broken.

    Examples:
      seqpack doctor
      seqpack doctor --tokenizer models/Qwen2.5-7B --disk runs
      seqpack doctor --no-numbers --json
    """
    import os
    import sys
    from collections.abc import Iterator
    from importlib.util import find_spec

    from seqpack import __version__
    from seqpack.core.check_result import CheckResult, all_passed
    from seqpack.hooks.host import plugin_host
    from seqpack.pipeline.machine import check_packages, data_checks
    from seqpack.report.checks import check_screen, verdict
    from seqpack.report.console import Console
    from seqpack.train.machine import network_checks, torch_checks

    def every_check() -> Iterator[CheckResult]:
        yield from data_checks(doctor.tokenizer, doctor.disk, plugin_host().reports)
        yield from network_checks(os.environ)
        if find_spec("torch") is not None:
            yield check_packages("training", "train")
        yield from torch_checks(numbers=doctor.numbers)

    console = Console(output)
    found = []
    with console.progress("look", unit="checks") as advance:
        for result in every_check():
            found.append(result)
            advance(1)
    checks = tuple(found)
    what = "data can be prepared" if find_spec("torch") is None else "data can be prepared and trained on"
    console.print(*check_screen({"seqpack": __version__}, checks), verdict(checks, what))
    console.result(
        {
            "passed": all_passed(checks),
            "checks": [{"name": check.name, "outcome": check.outcome, "seen": check.seen} for check in checks],
        }
    )
    if not all_passed(checks):
        sys.exit(1)
