"""Ctrl-C and SIGTERM during training: the step at hand is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(Exception):  # noqa: N818 - not an error
    """A run that ended between two steps because it was asked to; ``saved`` is its last checkpoint."""

    def __init__(self, signum: int, step: int, saved: Path) -> None:
        super().__init__(f"stopped after step {step}")
        self.signum = signum
        self.step = step
        self.saved = saved


class StopRequest:
    """Inside ``with``, the first signal is noted in ``signum`` (0: none); the second acts as it did before."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
