"""The same work on every shard of the data, in this process or in several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from seqpack.core.progress import Progress
from seqpack.io.shards import Shard, estimate
from seqpack.text.tokenizer import Tokenizer

T = TypeVar("T")
Advance = Callable[[int], None]
"""Hears how many samples were done since the last call."""


def distribute(
    shards: Iterable[Shard],
    work: Callable[[Shard, Advance], tuple[T, int]],
    *,
    files: Sequence[Path],
    tokenizer: Tokenizer | None,
    workers: int | None,
    progress: Progress,
) -> Generator[T, None, None]:
    """Results of ``work``, which also counts its samples, in the order of ``shards``; ``files`` are all that are cut.

    ``tokenizer`` is one that all workers will need; None if only samples that are too long do.

    ``workers`` None means all cores. There are never more of them than shards, so that small data need no other
    process. Errors as ``work`` raises them, and DeviceError if a worker dies repeatedly.
    """
    wanted = workers or len(os.sched_getaffinity(0))
    number = min(wanted, estimate(files)) if wanted > 1 else 1
    with progress("tokenize", unit="samples") as advance:
        if number == 1:
            with _one_thread_each() if wanted == 1 else contextlib.nullcontext():
                for shard in shards:
                    yield work(shard, advance)[0]
        else:
            if tokenizer is not None:
                tokenizer.load()  # once, not in every worker
            for result, count in _in_workers(shards, work, number):
                advance(count)
                yield result


def _in_workers(
    shards: Iterable[Shard], work: Callable[[Shard, Advance], tuple[T, int]], workers: int
) -> Iterator[tuple[T, int]]:
    from seqpack.pipeline.workers import run_on_shards, stop_if_orphaned

    parent = os.getpid()

    def serve(shard: Shard) -> tuple[T, int]:
        return work(shard, lambda samples: stop_if_orphaned(parent))

    with _one_thread_each(), contextlib.closing(run_on_shards(shards, serve, workers=workers)) as results:
        yield from results


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep ``tokenizers`` from starting threads beside the workers asked for, and from warning of a fork."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
