"""Making the parts that are missing, here or in several processes, and all parts in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqpack.core.errors import DataError
from seqpack.io.manifest import FileRecord
from seqpack.io.shards import Shard
from seqpack.pipeline.distribute import Advance, distribute
from seqpack.pipeline.parts import Part, PartStore
from seqpack.pipeline.remote import run_on_ray
from seqpack.pipeline.run import Run
from seqpack.text.tokenizer import Tokenizer

MakePart = Callable[[Shard, Advance], int]
"""Writes the part of a shard and returns the number of samples in it."""


@dataclass(slots=True)
class PartsMade:
    """All shards of the data, and digests of its files as they were read."""

    files: Sequence[Path]
    shards: list[Shard] = field(default_factory=list)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def records(self) -> dict[str, FileRecord]:
        """Of each file; DataError if one changed while it was read."""
        digests = {shard.number: shard.digest for shard in self.shards}  # the last of a file covers all of it
        records = {}
        for number, file in enumerate(self.files):
            size, modified = self.sizes[file]
            if _stamp(file) != (size, modified):
                raise DataError("SP103", f"{file} was changed while it was read", help="run again when it is finished")
            records[str(file)] = FileRecord(size, digests[number], modified)
        return records

    def parts(self, store: PartStore) -> list[Part]:
        """Every part in the order of the data; DataError naming those that are missing."""
        found = [store.finished(shard) for shard in self.shards]
        if missing := [str(shard.index) for shard, part in zip(self.shards, found, strict=True) if part is None]:
            listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise DataError(
                "SP304",
                f"{len(missing):,} of {len(found):,} parts in {store.folder} are missing: {listed}",
                help="run preprocess again with the --shard-index of each run that did not end, or without it to do "
                "all that is missing here",
            )
        return [part for part in found if part is not None]


def make_parts(
    store: PartStore,
    files: Sequence[Path],
    shards: Iterable[Shard],
    make: MakePart,
    *,
    run: Run,
    tokenizer: Tokenizer | None,
) -> PartsMade:
    """Make the parts that are ours (``--shard-index``) and not finished; none in a run that only merges."""
    made = PartsMade(files, sizes={file: _stamp(file) for file in files})

    def missing() -> Iterator[Shard]:
        for shard in shards:
            made.shards.append(shard)
            if not run.only_merge and run.work.takes(shard.index) and store.finished(shard) is None:
                yield shard

    if run.work.ray:
        with run.progress("tokenize", unit="samples") as advance:
            for count in run_on_ray(missing(), run):
                advance(count)
        return made

    def serve(shard: Shard, advance: Advance) -> tuple[None, int]:
        return None, make(shard, advance)

    results = distribute(
        missing(), serve, files=files, tokenizer=tokenizer, workers=run.work.workers, progress=run.progress
    )
    with contextlib.closing(results):
        for _ in results:
            pass
    return made


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
