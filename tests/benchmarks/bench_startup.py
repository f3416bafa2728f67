"""How long `seqpack --help` takes, as a share of `import torch` on the same machine.

Run: python tests/benchmarks/bench_startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

RUNS = 5
HELP = [sys.executable, "-m", "seqpack", "--help"]
TORCH = [sys.executable, "-c", "import torch"]


def best_of(command: list[str], runs: int = RUNS) -> float:
    """Seconds of the fastest run; one run before it warms the file cache."""
    return min([seconds(command) for _ in range(runs + 1)][1:])


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    help_page, torch = best_of(HELP), best_of(TORCH)
    print(f"seqpack --help  {help_page:6.3f} s  (best of {RUNS})")
    print(f"import torch    {torch:6.3f} s  (best of {RUNS})")
    print(f"ratio           {help_page / torch:6.3f}")


if __name__ == "__main__":
    main()
