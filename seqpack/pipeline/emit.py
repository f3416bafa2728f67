"""Other systems' layouts of the same packs, beside our own files."""

from __future__ import annotations

from seqpack.core.plan import PackPlan
from seqpack.io.indexed import bin_path, idx_path
from seqpack.io.packed import DataSetPaths
from seqpack.io.pai import pai_prefix, write_pai
from seqpack.options.data import WriteOptions
from seqpack.pipeline.materialize import packed_rows


def emit(write: WriteOptions, plan: PackPlan, paths: DataSetPaths) -> list[str]:
    """Write what ``--emit`` asks for beyond our own files; returns the names of the files to publish with them."""
    if write.emit != "pai":
        return []
    write_pai(packed_rows(plan, paths), paths.prefix)
    pair = pai_prefix(paths.prefix)
    return [bin_path(pair).name, idx_path(pair).name]
