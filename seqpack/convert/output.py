"""Where a converted model goes: never over something else, and never in a state that looks finished but is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqpack.convert.huggingface import CONFIG
from seqpack.core.errors import ConfigError
from seqpack.io.publish import partial_folder, publish

MANIFEST = "seqpack_convert.json"
INSIDE_HF_MODEL = "mg2hg"


def huggingface_target(output: Path) -> Path:
    """``output``, or ``output/mg2hg`` if a model that is not of our making lies there (MindSpeed-LLM's convention)."""
    is_foreign_model = (output / CONFIG).exists() and not (output / MANIFEST).exists()
    return output / INSIDE_HF_MODEL if is_foreign_model else output


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """ConfigError if ``target`` is a file, or holds anything but hidden files and may not be overwritten."""
    if target.exists() and not target.is_dir():
        raise ConfigError("SP004", f"{target} is a file", help="choose another directory with -o")
    # hidden files do not count: a killed run may have left its folder there, and it is cleared away by the next
    if target.is_dir() and not overwrite and any(not path.name.startswith(".") for path in target.iterdir()):
        raise ConfigError(
            "SP004", f"{target} is not empty", help="choose another directory with -o, or replace it with --overwrite"
        )


@contextmanager
def written_aside(target: Path, *, last: str, keep: Path) -> Iterator[Path]:
    """A folder to write into. What is in it appears in ``target`` when the block ends well, ``last`` last.

    A new target appears whole, by one rename. In an existing one only entries of the same names and those that an
    earlier run listed in its manifest are replaced; if ``keep`` (the source) is among them it is a ConfigError.
    """
    target = target.resolve()
    # inside an existing target, because that may be a file system of its own (a volume of a container)
    with partial_folder(target / "weights" if target.is_dir() else target) as folder:
        yield folder
        names = sorted(
            (path.name for path in folder.iterdir()), key=lambda name: (name == last, name == MANIFEST, name)
        )
        if not target.is_dir():
            folder.rename(target)
            return
        stale = {*names, *_listed_in_manifest(target)} - {last}
        _refuse_source(target, stale, keep)
        (target / last).unlink(missing_ok=True)
        for name in stale:
            _remove(target / name)
        publish(folder, target, names)


def write_manifest(folder: Path, last: str, facts: dict[str, Any]) -> None:
    """What was converted from where, digests of all tensors, and the entries of the output directory."""
    files = sorted({*(path.name for path in folder.iterdir()), last, MANIFEST})
    manifest = {"format_version": 1, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _listed_in_manifest(target: Path) -> set[str]:
    try:
        files = json.loads((target / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    # plain names only: a manifest must not be able to point outside its directory
    return {name for name in files if isinstance(name, str) and Path(name).name == name}


def _refuse_source(target: Path, names: Iterable[str], source: Path) -> None:
    for name in names:
        if source.resolve().is_relative_to(target / name):
            raise ConfigError(
                "SP004", f"--overwrite would remove the source, {source}", help="choose another directory with -o"
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
