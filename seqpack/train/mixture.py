"""Several sets in one run: which of them decides how rows are read, and whether the others go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpack.core.errors import ConfigError

if TYPE_CHECKING:
    from seqpack.io.packed import PackedDataset


def deciding(sets: tuple[PackedDataset, ...]) -> PackedDataset:
    """The set whose mask and length of rows are those of the run: the first that is packed, if there is one."""
    return next((dataset for dataset in sets if dataset.manifest.packed), sets[0])


def check_same(paths: list[str], sets: tuple[PackedDataset, ...]) -> None:
    """SP203 for sets that do not go together; a row of one sample means the same under every mask."""
    leading = deciding(sets)
    first, first_path = leading.manifest, paths[sets.index(leading)]
    for path, dataset in zip(paths, sets, strict=True):
        manifest = dataset.manifest
        facts: list[tuple[str, object, object]] = [
            ("kind", first.kind, manifest.kind),
            ("tokenizer", first.tokenizer.fingerprint[:12], manifest.tokenizer.fingerprint[:12]),
        ]
        if manifest.packed:
            facts += [
                ("mask", first.mask, manifest.mask),
                ("sequence length", first.seq_length, manifest.seq_length),
            ]
        for name, wanted, found in facts:
            if wanted != found:
                raise ConfigError(
                    "SP203",
                    f"--data-path: {first_path} and {path} differ in {name}: {wanted} and {found}",
                    help="make them with the same options to train on both in one run",
                )
        longest = int(dataset.row_lengths.max(initial=0))
        if first.packed and not manifest.packed and first.seq_length is not None and longest > first.seq_length:
            raise ConfigError(
                "SP203",
                f"--data-path: {path} is not packed and has a sample of {longest:,} tokens, the packs of {first_path} "
                f"have {first.seq_length:,}",
                help="preprocess it again with --seq-length, which cuts or drops what is longer; or pack it",
            )
