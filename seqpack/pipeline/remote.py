"""``--ray``: a task of Ray for each shard, on any machine of its cluster that sees the same disk.

Only options and shards travel. A task leaves its part where the main process looks for it, as the workers of one
machine do, so what is finished stays finished and the data do not depend on who made which part.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpack.core.errors import DeviceError
from seqpack.io.shards import Shard
from seqpack.options.data import WorkOptions
from seqpack.pipeline.run import Run

if TYPE_CHECKING:
    from seqpack.pipeline.work import MakePart

RETRIES = 2
"""After the death of a worker or of its machine; an error of the data is none."""

TASKS_AHEAD = 256
"""Tasks handed over and not finished."""


def run_on_ray(shards: Iterable[Shard], run: Run) -> Iterator[int]:
    """Have the parts of the shards made; yields the number of samples of each, in their order.

    Uses the cluster of ``RAY_ADDRESS``, or starts Ray here with as many processors as ``--workers``. An error is that
    of the first shard that fails; DeviceError if Ray is not there, or its workers die again and again.
    """
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        is_here = run.work.workers is not None and "RAY_ADDRESS" not in os.environ
        ray.init(log_to_driver=False, **({"num_cpus": run.work.workers} if is_here else {}))
    make = ray.remote(max_retries=RETRIES)(make_part)
    options, here = run.to_json(), Path.cwd()
    waiting: deque[tuple[Shard, Any]] = deque()
    try:
        for shard in shards:
            waiting.append((shard, make.remote(options, here, shard)))
            if len(waiting) >= TASKS_AHEAD:
                yield _result(ray, *waiting.popleft())
        while waiting:
            yield _result(ray, *waiting.popleft())
    finally:
        if is_ours:
            ray.shutdown()


def make_part(options: str, folder: Path, shard: Shard) -> int:
    """What a task does: write the part of a shard; returns the number of samples in it."""
    os.chdir(folder)  # paths of the options are relative to it
    return _maker(options)(shard, lambda samples: None)


@functools.lru_cache(maxsize=1)
def _maker(options: str) -> MakePart:
    """Everything a process needs for the shards of one run, opened once."""
    from seqpack.pipeline.preprocess import part_maker

    run = Run.from_json(options, place=Path("the options of a task"))
    return part_maker(replace(run, work=WorkOptions(num_shards=1, workers=1), only_merge=False))


def _result(ray: Any, shard: Shard, task: Any) -> int:
    try:
        return int(ray.get(task))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise DeviceError(
            "SP505",
            f"Ray gave up on the rows from {shard.key} on ({type(error).__name__}: {str(error).strip()[:200]})",
            help="see its logs; nothing was published, and the same command goes on from the finished parts",
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DeviceError(
            "SP509", "--ray: Ray is not installed", help='pip install "seqpack-toolkit[ray]", or leave --ray out'
        ) from error
    return ray
