"""What ``--data-path`` names: one set or several, of ours or of another program, as one source of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.io.documents import DocumentRows
from seqpack.io.foreign import ForeignDataset, is_pai, open_foreign
from seqpack.io.indexed import IndexedDataset, idx_path
from seqpack.io.manifest import Manifest
from seqpack.io.packed import DataSetPaths, PackedDataset, PretrainPaths
from seqpack.io.planned import PlannedDataset
from seqpack.train.checks import check_stage, documents_isolated
from seqpack.train.mixture import check_same, deciding
from seqpack.train.pack_plans import read_through_plans
from seqpack.train.repacking import Sets, repacked
from seqpack.train.split import parse_split, part_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seqpack.options.train import TrainDataOptions
    from seqpack.train.flops import ModelFlops

MIN_SHARE = 0.001
"""Below that, a share is not kept over any stretch that a run would notice."""
SAMPLES_NAMED = 6
"""Samples of a row that an error names."""


@dataclass(frozen=True, slots=True)
class TrainData:
    """Rows of all sets one after the other; ``weights`` are shares of the rows taken from each set, if given.

    ``manifest`` is that of the first packed set, or of the first set; the others agree with it in what training depends
    on. ``notes`` say what was found out about sets without one.
    """

    sets: tuple[PackedDataset, ...]
    weights: tuple[float, ...] | None
    split: tuple[float, float, float]
    notes: tuple[str, ...]
    of_epoch: Callable[[int], Sets] | None = None
    """The sets of an epoch, if they are packed again in each; row ``r`` of epoch ``e`` is then ``e * len() + r``."""
    num_epochs: int = 1
    """Epochs that ``num_targets`` and the other values of rows are there for, one after the other."""

    @property
    def manifest(self) -> Manifest:
        return deciding(self.sets).manifest

    @property
    def all_packed(self) -> bool:
        return all(dataset.manifest.packed for dataset in self.sets)

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def __getitem__(self, row: int) -> PackedSequence:
        dataset, place = self._find(row)
        return dataset[place]

    def repacked(self, num_epochs: int) -> TrainData:
        """The same, with the values of rows for so many epochs; ``of_epoch`` must be there."""
        return replace(self, num_epochs=num_epochs)

    @property
    def epoch_shift(self) -> int:
        """What to add to the number of a row for that of the next epoch; 0 if rows are the same in every epoch."""
        return len(self) if self.of_epoch else 0

    @property
    def num_targets(self) -> NDArray[np.int64]:
        return np.concatenate([dataset.num_targets for dataset in self._all_sets()])

    @property
    def num_tokens(self) -> NDArray[np.int64]:
        return np.concatenate([dataset.num_tokens for dataset in self._all_sets()])

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        return np.concatenate([dataset.row_lengths for dataset in self.sets])

    def loss_units(self, reduction: str) -> NDArray[np.int64]:
        """What the loss of each row counts, int64 ``[rows]``: trained tokens, or samples or packs that have some."""
        if reduction == "sample":
            return np.concatenate([_trained_samples(dataset) for dataset in self._all_sets()])
        return (self.num_targets > 0).astype(np.int64) if reduction == "pack" else self.num_targets

    def costs(self, flops: ModelFlops) -> NDArray[np.float64]:
        """Operations of each row for a model; samples of a pack that see each other are one piece."""
        found = []
        for dataset in self._all_sets():
            pieces, rows = dataset.pieces, len(dataset)
            if dataset.manifest.mask is MaskMode.CAUSAL:
                found.append(flops.of_rows(np.arange(rows), dataset.num_tokens, dataset.num_targets, rows))
            else:
                found.append(flops.of_rows(pieces.row, pieces.length, pieces.num_targets, rows))
        return np.concatenate(found)

    def pools(self, part: int = 0) -> list[NDArray[np.int64]]:
        """Rows of each set in a part of the split: 0 to train on, 1 to evaluate on, 2 to leave alone."""
        starts = np.cumsum([0, *map(len, self.sets)])
        ranges = (part_of(len(dataset), self.split, part) for dataset in self.sets)
        return [start + np.arange(*bounds) for start, bounds in zip(starts[:-1], ranges, strict=True)]

    def mean_tokens(self) -> float:
        """Tokens of a row that is trained on, on average; under weights, sets count by their share of the rows."""
        trained = [rows[self.num_targets[rows] > 0] for rows in self.pools()]
        shares = self.weights or [len(rows) for rows in trained]
        means = [self.num_tokens[rows].mean() if len(rows) else 0.0 for rows in trained]
        return max(1.0, float(np.average(means, weights=shares))) if sum(shares) else 1.0

    def describe(self, row: int) -> str:
        """Which samples a row holds: "row 3 (data.jsonl:17, data.jsonl:4)"."""
        dataset, place = self._find(row)
        pieces = range(int(dataset.offsets[place]), int(dataset.offsets[place + 1]))
        keys = [dataset.pieces.key(piece) for piece in pieces]
        return f"row {place} ({', '.join(keys[:SAMPLES_NAMED])}{', ...' if len(keys) > SAMPLES_NAMED else ''})"

    def key(self, row: int, sample: int) -> str:
        """``file:line`` that a sample of a row comes from."""
        dataset, place = self._find(row)
        return dataset.pieces.key(int(dataset.offsets[place]) + sample)

    def digest(self) -> str:
        """The same for the same rows in the same order."""
        again = ("repacked",) if self.of_epoch else ()
        found = hashlib.sha256(repr((self.weights, self.split, *again)).encode())
        for dataset in self.sets:
            files = {name: record.sha256 for name, record in sorted(dataset.manifest.files.items())}
            found.update(repr((files, len(dataset), dataset.manifest.mask)).encode())
            for column in dataset.layout:
                found.update(np.ascontiguousarray(column).tobytes())
        return found.hexdigest()

    def _all_sets(self) -> Iterator[PackedDataset]:
        """The sets of every epoch that values are there for."""
        for epoch in range(self.num_epochs):
            yield from self.of_epoch(epoch) if self.of_epoch else self.sets

    def _find(self, row: int) -> tuple[PackedDataset, int]:
        sets = self.sets
        if self.of_epoch:
            epoch, row = divmod(row, len(self))
            sets = self.of_epoch(epoch)
        for dataset in sets:
            if row < len(dataset):
                return dataset, row
            row -= len(dataset)
        raise IndexError(row)


def open_data(data: TrainDataOptions, *, end_token_id: int | None = None) -> TrainData:
    """Open every set of ``--data-path``; SP203 if they do not fit together, SP208 for flags that fit none of them."""
    paths, weights = parse_data_path(data.data_path)
    sets = tuple(_open(Path(path), data, end_token_id) for path in paths)
    sets = read_through_plans(paths, sets, data)
    check_same(paths, sets)
    check_stage(data, deciding(sets).manifest)
    notes = tuple(note for path, dataset in zip(paths, sets, strict=True) for note in _notes(path, dataset))
    if deciding(sets).manifest.packed:
        alone = [(path, dataset) for path, dataset in zip(paths, sets, strict=True) if not dataset.manifest.packed]
        notes += tuple(
            f"{path} is not packed: each of its {len(dataset):,} rows is one sample" for path, dataset in alone
        )
    split = parse_split(data.split)
    if not data.repack_epochs:
        return TrainData(sets, weights, split, notes)
    notes += ("packs hold other samples of the same lengths in every epoch",)
    return TrainData(sets, weights, split, notes, repacked(sets, split, data.seed))


def parse_data_path(words: list[str]) -> tuple[list[str], tuple[float, ...] | None]:
    """``a b`` -> both, once each an epoch; ``0.3 a 0.7 b`` -> shares of the rows."""
    weights = [_number(word) for word in words[::2]]
    if len(words) % 2 or None in weights:
        if numbers := [word for word in words if _number(word) is not None]:
            raise ConfigError(
                "SP208",
                f"--data-path {' '.join(words)}: {numbers[0]} is a weight without a set, or not every set has one",
                help="give a weight before every set, as in --data-path 0.3 packs/a 0.7 packs/b, or none at all",
            )
        return words, None
    given = [weight for weight in weights if weight is not None]
    if min(given) <= 0:
        raise ConfigError("SP208", f"--data-path: the weight {min(given):g} is not above 0", help="leave that set out")
    shares = tuple(weight / sum(given) for weight in given)
    if min(shares) < MIN_SHARE:
        raise ConfigError(
            "SP208", f"--data-path: a share of {min(shares):g} is below {MIN_SHARE:g}", help="leave that set out"
        )
    return words[1::2], shares


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _open(prefix: Path, data: TrainDataOptions, end_token_id: int | None) -> PackedDataset:
    if DataSetPaths.of(prefix).manifest.is_file():
        return PackedDataset.open(prefix)
    text = PretrainPaths(prefix).manifest
    if text.is_file():
        manifest = Manifest.read(text)
        if len(manifest.texts) > 1:
            pairs = " ".join(f"{prefix}_{key}_document" for key in manifest.texts)
            raise ConfigError(
                "SP208", f"--data-path {prefix} holds several texts", help=f"name the ones to train on: {pairs}"
            )
        key = next(iter(manifest.texts))
        return _documents(PretrainPaths(prefix).column(key), data, manifest, end_token_id)
    if (foreign := open_foreign(prefix)) is not None:
        return foreign
    for pair in (prefix, prefix.with_name(f"{prefix.name}_text_document")):
        if idx_path(pair).is_file():
            if is_pai(IndexedDataset(pair)):
                found = open_foreign(pair.with_name(pair.name.removesuffix("_text_document")))
                assert found is not None
                return found
            return _documents(pair, data, _manifest_beside(pair), end_token_id)
    return PackedDataset.open(prefix)  # says what is missing


def _manifest_beside(pair: Path) -> Manifest | None:
    """The manifest of the set a pair belongs to: that of ``out/a`` for ``out/a_text_document``."""
    for path in pair.parent.glob("*_manifest.json"):
        prefix = path.name.removesuffix("_manifest.json")
        if pair.name.startswith(f"{prefix}_") and not prefix.endswith("_packed"):
            return Manifest.read(path)
    return None


def _documents(pair: Path, data: TrainDataOptions, manifest: Manifest | None, end_token_id: int | None) -> DocumentRows:
    if data.seq_length is None:
        raise ConfigError(
            "SP208", f"{pair} holds documents, which are cut into rows", help="say how long: --seq-length 4096"
        )
    return DocumentRows(
        pair,
        data.seq_length,
        isolated=documents_isolated(manifest, data),
        manifest=manifest,
        end_token_id=end_token_id,
    )


def _notes(path: str, dataset: PackedDataset) -> list[str]:
    notes = []
    if isinstance(dataset, ForeignDataset):
        where = "found by the marks of its writer"
        if dataset.boundaries_from is not None:
            where = f"read from {dataset.boundaries_from}, where an earlier run put them"
        notes.append(f"{path} has no manifest: boundaries of {len(dataset.pieces):,} samples {where}")
    if isinstance(dataset, DocumentRows):
        where = "the document index" if dataset.boundaries_from_index else "end tokens, as the index has one document"
        notes.append(f"{path}: {dataset.num_documents:,} documents, their ends from {where}")
    if isinstance(dataset, PlannedDataset):
        left_out = f"; {dataset.num_left_out:,} longer samples are left out" if dataset.num_left_out else ""
        made = f"{len(dataset):,} packs of {dataset.manifest.seq_length:,} tokens, strategy {dataset.manifest.strategy}"
        notes.append(f"{path} is read through a plan: {made}{left_out}")
    if not dataset.manifest.tokenizer.fingerprint:
        notes.append(f"{path} does not say which tokenizer it was made with, so that could not be checked")
    return notes


def _trained_samples(dataset: PackedDataset) -> NDArray[np.int64]:
    trained = dataset.pieces.num_targets > 0
    return np.bincount(dataset.pieces.row[trained], minlength=len(dataset)).astype(np.int64)
