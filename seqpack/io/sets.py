"""Any set that ``preprocess`` wrote, found by its prefix, and the reader for sets of pretraining text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import FormatError
from seqpack.io.indexed import IndexedDataset
from seqpack.io.manifest import Manifest
from seqpack.io.packed import DataSetPaths, PackedDataset, PretrainPaths, check_sizes


def find_manifest(prefix: Path) -> Path | None:
    """The manifest of the set ``prefix``, of whatever kind; None if there is no such set."""
    if prefix.name in ("", ".."):
        return None
    manifests = (DataSetPaths.of(prefix).manifest, PretrainPaths(prefix).manifest)
    return next((path for path in manifests if path.is_file()), None)


class DocumentSet:
    """A set of pretraining text: a pair for each of ``keys``, a document in each row."""

    def __init__(self, prefix: Path, manifest: Manifest) -> None:
        self.keys = tuple(manifest.texts)
        self.paths = PretrainPaths(prefix, self.keys)
        self.manifest = manifest
        check_sizes(self.paths, manifest)
        self.columns = {key: IndexedDataset(self.paths.column(key)) for key in self.keys}

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)

    def document(self, row: int) -> dict[str, NDArray[np.int32]]:
        """The ids of row ``row`` for every key that has so many rows."""
        return {key: column[row] for key, column in self.columns.items() if row < len(column)}


def open_set(prefix: Path) -> PackedDataset | DocumentSet:
    """A set of samples or of documents. Raises as ``PackedDataset.open``, and FormatError SP141 for other kinds."""
    path = find_manifest(prefix)
    if path is None:
        return PackedDataset.open(prefix)  # says what is missing
    manifest = Manifest.read(path)
    if manifest.kind == "sft":
        return PackedDataset.open(prefix)
    if manifest.kind == "pretrain":
        return DocumentSet(prefix, manifest)
    raise FormatError(
        "SP141",
        f"{path}: a set of kind {manifest.kind!r} can be neither shown nor measured",
        help="the kinds that can: sft, pretrain",
    )
