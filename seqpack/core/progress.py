"""How long work reports that it advances, without knowing who shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """``with progress("read", total=100, unit="rows") as advance: advance(10)``."""

    def __call__(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]: ...


Say = Callable[[str], None]
"""Takes one line for people about what is going on."""


def say_nothing(line: str) -> None:
    """Nobody listens."""


@contextlib.contextmanager
def no_progress(label: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Shows nothing."""
    yield lambda n: None
