"""The same work on a source of samples in this process, or shard by shard in several."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress
from seqpack.io.shards import Shard, cut, estimate, whole_files
from seqpack.pipeline.samples import SampleSource

T = TypeVar("T")
Part = Callable[[SampleSource, int, Iterable[Shard], Callable[[int], None]], T]
"""``part(source, number, shards, advance)`` does the work for these shards, calling ``advance(samples)`` as it goes."""


def distribute(
    source: SampleSource, part: Part[T], *, workers: int | None, progress: Progress
) -> Generator[T, None, None]:
    """Results of ``part`` in the order of the data, all at once or shard by shard; ``source.ledger`` counts all rows.

    ``workers`` None means all cores. There are never more of them than shards, so that small data need no other
    process. Errors as ``tokenize`` raises them, and DeviceError if a worker dies repeatedly.
    """
    wanted = workers or len(os.sched_getaffinity(0))
    number = min(wanted, estimate(source.files)) if wanted > 1 else 1
    with progress("tokenize", unit="samples") as advance:
        if number == 1:
            with _one_thread_each() if wanted == 1 else contextlib.nullcontext():
                result = part(source, 0, whole_files(source.files), advance)
            yield result
        else:
            yield from _in_workers(source, part, number, advance)


def _in_workers(
    source: SampleSource, part: Part[T], workers: int, advance: Callable[[int], None]
) -> Generator[T, None, None]:
    from seqpack.pipeline.workers import run_on_shards, stop_if_orphaned

    parent = os.getpid()
    source.tokenizer.load()  # once, not in every worker that comes to a sample that is too long

    def work(number: int, shard: Shard) -> tuple[T, Ledger, int]:
        mine = source.uncounted()
        return part(mine, number, [shard], lambda samples: stop_if_orphaned(parent)), mine.ledger, mine.num_ended

    with _one_thread_each(), contextlib.closing(run_on_shards(cut(source.files), work, workers=workers)) as results:
        for result, ledger, num_ended in results:
            source.ledger.add(ledger)
            source.num_ended += num_ended
            advance(ledger.kept.samples)
            yield result


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
