"""A data set that is already there: the very one that is asked for, or one made of something else."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqpack.core.errors import ConfigError, DataError, FormatError
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord
from seqpack.io.packed import DataSetPaths, check_sizes
from seqpack.pipeline.output import check_output
from seqpack.pipeline.run import Run, settings
from seqpack.pipeline.settings import Settings, differences


def unchanged_set(
    paths: DataSetPaths, run: Run, recipe: Settings, tokenizer: TokenizerRecord, inputs: Sequence[Path]
) -> Manifest | None:
    """The manifest of the set at ``paths`` if the same run would make the same set; None if there is no set.

    ConfigError SP301 naming what changed if it is another one, SP004 for other files of that name. Under
    ``--overwrite`` whatever is there is replaced.
    """
    manifest = None
    with contextlib.suppress(DataError, FormatError):  # there is none, or something else of its name
        manifest = Manifest.read(paths.manifest)
    if run.write.overwrite or manifest is None:
        check_output(paths, run.write, packs=run.pack.packs)
        return None
    before = settings(manifest.recipe, manifest.tokenizer, manifest.seqpack_version)
    changed = [*differences(before, settings(recipe, tokenizer)), *_changed_inputs(manifest.inputs, inputs)]
    if changed:
        raise ConfigError(
            "SP301",
            f"{paths.prefix} was made of something else: {'; '.join(changed)}",
            help="replace it with --overwrite, or choose another --output-prefix",
        )
    check_sizes(paths, manifest)
    return manifest


def _changed_inputs(before: Mapping[str, FileRecord], now: Sequence[Path]) -> list[str]:
    names = [str(file) for file in now]
    gone = [f"input {name} is not read any more" for name in before if name not in names]
    changed = []
    for file in now:
        record = before.get(str(file))
        if record is None:
            changed.append(f"input {file} is new")
        elif not _is_same(file, record):
            changed.append(f"input {file} has changed")
    if not gone and not changed and list(before) != list(dict.fromkeys(names)):
        changed.append("the inputs are in another order")
    return [*gone, *changed]


def _is_same(file: Path, record: FileRecord) -> bool:
    """A file of the same size and time counts as the same; one of another time is read."""
    status = file.stat()
    if status.st_size != record.size:
        return False
    return status.st_mtime_ns == record.modified or FileRecord.of(file).sha256 == record.sha256
