"""The errors seqpack raises on purpose, as one tree.

Each carries a diagnostic code (``seqpack explain SP103`` prints its page), says what was seen, and says what to do.
Any other exception that leaves the package is a bug and should look like one.
"""

from functools import partial
from typing import Any


class SeqpackError(Exception):
    """Base of all errors a user can cause; ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, help: str = "") -> None:
        super().__init__(f"{message} ({help})" if help else message)
        self.code = code
        self.message = message
        self.help = help

    def __reduce__(self) -> tuple[Any, ...]:
        # the default would call the class with the joined text; workers send their errors to the main process
        return partial(type(self), help=self.help), (self.code, self.message)


class ConfigError(SeqpackError):
    """A flag, a name or a YAML key is wrong, or two of them contradict each other."""

    exit_code = 2


class PluginError(SeqpackError):
    """A plugin could not be loaded, or broke its contract."""

    exit_code = 2


class DataError(SeqpackError):
    """Input rows cannot be used; the message names file:line."""

    exit_code = 3


class FormatError(DataError):
    """A file is not what its name or manifest says it is."""


class CheckpointError(DataError):
    """A model directory or checkpoint is incomplete, or belongs to another model."""


class DataLossError(SeqpackError):
    """More rows were dropped than the user allowed."""

    exit_code = 4


class DeviceError(SeqpackError):
    """The machine cannot do what was asked: no such device, disk full, a package missing."""

    exit_code = 5


class DistributedError(SeqpackError):
    """Another process of the run failed or disagrees."""

    exit_code = 6


class UncoveredError(Exception):
    """Raised under ``--compat`` for a record whose treatment elsewhere is not known, or at which that program stops."""


class RejectError(Exception):
    """Raised by a handler for a record that cannot be used; the run goes on, and counts it under ``reason``.

    ``missing_column`` marks the case that, on the first record of a file, means the whole file has other columns.
    """

    def __init__(self, reason: str, *, missing_column: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.missing_column = missing_column
