"""What a way of keeping a Megatron checkpoint on disk has to offer, and which ways there are.

A layout names tensors and says where their bytes lie; it never moves any. Between ``create`` and ``Draft.close`` the
bytes are filled in by ``copying.fill``, in any order and by several threads.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seqpack.convert.dtypes import DType
from seqpack.convert.mcore import Form, Model
from seqpack.convert.tensors import Key, Place, Tensor
from seqpack.convert.verify import Find
from seqpack.core.errors import CheckpointError, ConfigError

TRACKER = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True, slots=True)
class Draft:
    """Files with room for tensors. ``close`` takes the CRC-32 of each and makes them files that can be read."""

    places: Mapping[Key, Place]
    close: Callable[[Mapping[Key, int]], None]


class Stored(Protocol):
    """A checkpoint that was opened: what lies where in it. None of its tensors has been read."""

    @property
    def places(self) -> Mapping[Key, Place]: ...
    @property
    def args(self) -> Namespace | None: ...
    @property
    def left_out(self) -> tuple[str, ...]:
        """What the checkpoint holds beside weights and is not converted: optimizer and the like."""
        ...

    def form(self, model: Model) -> Form:
        """How it is split and spelled, as its files show; CheckpointError if that fits no such model."""
        ...

    def tensors(self, model: Model) -> Sequence[Tensor]:
        """The tensors that a checkpoint of this model and form must have, for ``check_parameters``."""
        ...

    def find(self, model: Model) -> Find:
        """As ``Layout.find``, of this checkpoint."""
        ...


class Layout(Protocol):
    """One way of keeping checkpoints of Megatron-core in an iteration's folder."""

    name: str
    """Value of ``--ckpt-format``."""

    def is_in(self, folder: Path) -> bool:
        """Whether that folder (``iter_0000001`` or ``release``) holds a checkpoint of this kind."""
        ...

    def open(self, folder: Path) -> Stored:
        """CheckpointError SP401 if a file is missing, cut short or unreadable."""
        ...

    def tensors(self, model: Model, form: Form) -> Sequence[Tensor]:
        """Every tensor of such a checkpoint, each with the pieces of Hugging Face tensors it holds."""
        ...

    def find(self, model: Model, form: Form) -> Find:
        """Where Hugging Face tensors lie in such a checkpoint, computed apart from ``tensors``: to verify it."""
        ...

    def create(
        self, folder: Path, tensors: Sequence[Tensor], dtypes: Mapping[Key, DType], args: Namespace, iteration: int
    ) -> Draft:
        """Lay out the files of a checkpoint in an empty folder, at full length and without data."""
        ...


def layouts() -> tuple[Layout, ...]:
    """All layouts, the default first."""
    from seqpack.convert.dist_layout import DistLayout
    from seqpack.convert.torch_layout import TorchLayout

    return (TorchLayout(), DistLayout())


def find_layout(name: str) -> Layout:
    """The layout called ``name``; ConfigError SP406 if there is none."""
    for layout in layouts():
        if layout.name == name:
            return layout
    known = ", ".join(layout.name for layout in layouts())
    raise ConfigError("SP406", f"--ckpt-format {name} is not known", help=f"known: {known}")


def iteration_folder(*, release: bool) -> str:
    return "release" if release else "iter_0000001"


def tracker_text(*, release: bool) -> str:
    return "release" if release else "1"


def find_checkpoint(source: Path) -> tuple[Layout, Path]:
    """Layout and folder of a checkpoint: ``source`` is a directory with a tracker, or one iteration inside it.

    CheckpointError SP401 if something is missing.
    """
    tracker = source / TRACKER
    folder = source / _latest(tracker) if tracker.is_file() else source
    for layout in layouts():
        if layout.is_in(folder):
            return layout, folder
    if not tracker.is_file():
        raise CheckpointError(
            "SP401",
            f"{tracker} is missing",
            help="name the directory of a Megatron checkpoint; without the tracker it is unfinished",
        )
    raise CheckpointError("SP401", f"{folder} holds no checkpoint", help="copy the checkpoint again")


def _latest(tracker: Path) -> str:
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if text.isdecimal() and len(text) < 20:
        return f"iter_{int(text):07d}"
    if text != "release":
        raise CheckpointError("SP401", f"{tracker} says {text[:40]!r}", help="it should hold a number or 'release'")
    return text
