"""Work on many shards in forked processes, results in the order of the shards.

A worker gets one shard at a time and answers before it gets the next. What is large stays in files; only small results
pass through pipes. A fork is cheap and shares the loaded tokenizer, which takes a second and 100 MB to load.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from seqpack.core.errors import DeviceError, SeqpackError
from seqpack.io.shards import Shard

T = TypeVar("T")
Work = Callable[[Shard], T]
"""Must give the same result, and leave the same files, if it is called again for a shard."""

ATTEMPTS = 2
PATIENCE = 60.0
"""Seconds without any work of the processor after which a worker counts as dead: a library that holds a lock while we
fork leaves it locked for ever in the new process."""

_MAX_AHEAD = 4
"""Results per worker that may wait for an earlier shard; bounds memory and files if that one takes long."""


_PR_SET_PDEATHSIG = 1


class WorkerBug(Exception):  # noqa: N818 - not one of our errors, and must look like it
    """An exception that a worker did not expect; the text is its traceback."""


def run_on_shards(shards: Iterable[Shard], work: Work[T], *, workers: int) -> Generator[T, None, None]:
    """Results of ``work`` in the order of ``shards``, whoever is done first.

    An error is that of the first shard that fails, as if one process had done them in turn. A shard whose worker dies
    is given to another one; DeviceError if that dies as well. No worker outlives the iterator, nor a main
    process that is killed.
    """
    crew = _Crew(work, iter(shards), _MAX_AHEAD * workers)
    gc.freeze()  # a collection in a worker would write to, and so copy, the pages it shares with us
    try:
        for _ in range(workers):
            crew.hire()
        yield from crew.results()
    finally:
        crew.dismiss()
        gc.unfreeze()


def stop_if_orphaned(parent: int) -> None:
    """End this process, without a trace, if the one that forked it is gone."""
    if os.getppid() != parent:
        os._exit(1)


@dataclass(slots=True)
class _Task:
    number: int
    shard: Shard
    attempts: int = 0


@dataclass(slots=True)
class _Worker:
    process: ForkProcess
    pipe: Connection
    task: _Task | None = None
    progress: int = -1
    since: float = 0.0

    def stands_still(self) -> bool:
        """Whether it has done nothing for ``PATIENCE``; asked from time to time."""
        done, now = _processor_time(self.process.pid), time.monotonic()
        if done != self.progress:
            self.progress, self.since = done, now
        return done >= 0 and now - self.since > PATIENCE


@dataclass(slots=True)
class _Crew(Generic[T]):
    """The workers, what each is at, and results that wait for their turn."""

    work: Work[T]
    shards: Iterator[Shard]
    max_ahead: int
    workers: list[_Worker] = field(default_factory=list)
    again: list[_Task] = field(default_factory=list)
    done: dict[int, T] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)
    num_given: int = 0
    next_result: int = 0

    def hire(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        others = [worker.pipe for worker in self.workers]
        process = context.Process(target=_serve, args=(self.work, theirs, [ours, *others], os.getpid()), daemon=True)
        with warnings.catch_warnings():  # Python 3.12 warns if an idle thread of an engine is there; ours need no lock
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))

    def results(self) -> Iterator[T]:
        while True:
            for worker in self.workers:
                if worker.task is None:
                    self._give(worker)
            busy = {worker.pipe: worker for worker in self.workers if worker.task is not None}
            if not busy:
                break
            for pipe in wait(list(busy), timeout=PATIENCE / 4):
                assert isinstance(pipe, Connection)
                self._hear(busy[pipe])
            for worker in busy.values():
                if worker.task is not None and worker.stands_still():
                    worker.process.kill()  # its pipe closes, and the shard is given to another
            while self.next_result in self.done:
                yield self.done.pop(self.next_result)
                self.next_result += 1
        if self.failed:
            raise self.failed[min(self.failed)]

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.process.kill()  # they hold nothing but files that will be removed
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def _give(self, worker: _Worker) -> None:
        task = self._next_task()
        if task is not None:
            worker.task = task
            with contextlib.suppress(BrokenPipeError):  # it just died, and its end of the pipe will say so
                worker.pipe.send(task.shard)

    def _next_task(self) -> _Task | None:
        if self.again:
            return self.again.pop()
        if self.failed or self.num_given - self.next_result >= self.max_ahead:
            return None
        try:
            shard = next(self.shards, None)
        except SeqpackError as error:  # the file cannot be cut up; earlier shards may have their own errors
            self.failed[self.num_given] = error
            return None
        if shard is None:
            return None
        self.num_given += 1
        return _Task(self.num_given - 1, shard)

    def _hear(self, worker: _Worker) -> None:
        task = worker.task
        assert task is not None
        try:
            result, error = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._replace(worker, task)
            return
        worker.task = None
        if error is None:
            self.done[task.number] = result
        else:
            self.failed[task.number] = error

    def _replace(self, worker: _Worker, task: _Task) -> None:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        task.attempts += 1
        if task.attempts < ATTEMPTS:
            self.again.append(task)
        else:
            code = worker.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.failed[task.number] = DeviceError(
                "SP505",
                f"{ATTEMPTS} workers died one after the other ({how}) on the rows from {task.shard.key} on",
                help="use fewer --workers if memory is short; nothing was written",
            )
        self.hire()


def _processor_time(pid: int | None) -> int:
    """What a process and its threads have worked, in ticks; -1 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however that comes about."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere it ends after the batch it is at
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(work: Work[Any], pipe: Connection, close: list[Connection], parent: int) -> None:
    """The life of a worker: shards in, results or errors out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too, but the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    stop_if_orphaned(parent)
    for other in close:
        other.close()  # else nobody would notice that the main process is gone
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            shard = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = (work(shard), None)
            except (SeqpackError, OSError) as error:
                answer = (None, error)
            except Exception:
                answer = (None, WorkerBug(traceback.format_exc()))
            stop_if_orphaned(parent)
            pipe.send(answer)
