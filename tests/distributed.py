"""Functions in several processes that form a group, for tests: ``run_ranks(2, function, argument, ...)``."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from seqpack.runtime.ranks import Ranks, joined

PRELOADED = ["seqpack.train.run", "transformers.models.qwen2.modeling_qwen2"]
SECONDS = 120.0


def run_ranks(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = SECONDS) -> list[Any]:
    """What ``function(ranks, *arguments)`` returns in each rank; AssertionError with the traceback of one that fails.

    Processes come from a server that has imported torch already: importing it anew would take most of the time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"  # no ports, which another test may take
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            context.Process(target=_rank, args=(Ranks(rank, size), store, pipes[rank][1], function, arguments))
            for rank in range(size)
        ]
        for process, (_, writer) in zip(processes, pipes, strict=True):
            process.start()
            writer.close()
        try:
            return _collect([reader for reader, _ in pipes], seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(readers: list[Connection], seconds: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(readers):
        waiting = [reader for rank, reader in enumerate(readers) if rank not in results]
        ready = wait(waiting, timeout=seconds)
        assert ready, f"ranks {sorted(set(range(len(readers))) - results.keys())} hang"
        for reader in itertools.chain(ready):
            rank = readers.index(reader)  # type: ignore[arg-type]
            try:
                fine, result = reader.recv()  # type: ignore[union-attr]
            except EOFError:
                fine, result = False, "it died without a word"
            assert fine, f"rank {rank}: {result}"
            results[rank] = result
    return [results[rank] for rank in range(len(readers))]


def _rank(ranks: Ranks, store: str, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        with joined(ranks, "cpu", init_method=store):
            result = function(ranks, *arguments)
        pipe.send((True, result))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
