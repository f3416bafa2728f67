"""``--input`` and ``--handler`` resolved: which files are read, and by which handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from seqpack.core.errors import DataError, RejectError, SeqpackError
from seqpack.core.progress import Say
from seqpack.handlers.detect import DETECTED, Match, check_parts, detect
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import DatasetCatalogue, DatasetHandler, HandlerOptions, make_handler
from seqpack.io.readers import Record, read_records, resolve_inputs
from seqpack.io.readers.record import elements
from seqpack.io.shards import Shard, read_shard, whole_files
from seqpack.options.data import InputOptions
from seqpack.pipeline.row_sample import RowSample

AUTO = "auto"
FIRST_ROWS = 20
"""Rows of each file that ``--handler auto`` looks at."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResolvedInput:
    """The files and, for each, the handler of its rows; ``handler`` is the component's name.

    ``text_keys`` is empty for conversations; else the rows are pretraining text, a document for each key.
    """

    files: list[Path]
    handlers: list[DatasetHandler]
    handler: str
    text_keys: tuple[str, ...]
    recipe: dict[str, Any]
    sampled: RowSample | None = None
    """Which rows are used, if not all."""
    pregrouped: bool = False
    """Whether a row may be a list of what are rows otherwise."""

    def rows(
        self, use: Callable[[Sequence[Any]], list[T]], shards: Iterable[Shard] | None = None
    ) -> Iterator[tuple[int, Record, T | str]]:
        """What ``use`` makes of the samples of each row, with the number of the file and the row.

        ``shards`` are the parts of the files to read, all of them by default. ``use`` may raise RejectError, as the
        handler may: the row then comes with the reason, once. Raises DataError for a file that cannot be read, a file
        whose first row lacks the columns its handler needs, and a handler that fails.
        """
        for shard in whole_files(self.files) if shards is None else shards:
            handler = self.handlers[shard.number]
            is_first = shard.first_line == 1
            for record in read_shard(shard, wanted=self._wanted(shard)):
                if self.sampled is not None and record.line != shard.first_line:
                    is_first = False
                for row in elements(record) if self.pregrouped else (record,):
                    try:
                        for item in self._use(row, handler, use):
                            yield shard.number, row, item
                    except RejectError as error:
                        if error.missing_column and is_first:
                            raise _wrong_columns(row, error) from error
                        yield shard.number, row, error.reason
                    is_first = False

    def _wanted(self, shard: Shard) -> Callable[[int], bool] | None:
        return None if self.sampled is None else partial(self.sampled.takes, shard.number)

    def read_by(self, handler: DatasetHandler) -> ResolvedInput:
        """The same files, all read by another handler."""
        return replace(self, handlers=[handler] * len(self.files))

    def _use(self, record: Record, handler: DatasetHandler, use: Callable[[Sequence[Any]], list[T]]) -> list[T]:
        if not isinstance(record.value, dict):
            kind = type(record.value).__name__
            hint = " (--pregrouped reads lists of samples)" if kind == "list" and not self.pregrouped else ""
            raise RejectError(f"a JSON {kind}, not an object{hint}")
        try:
            return use(list(handler(record.value)))
        except (RejectError, SeqpackError):
            raise
        except Exception as error:
            raise DataError(
                "SP107",
                f"{record.key}: handler {self.handler!r} failed with {type(error).__name__}: {error}",
                help="mend that row, or the handler (it should raise RejectError for rows it cannot use)",
            ) from error


def resolve_input(input: InputOptions, *, say: Say) -> ResolvedInput:
    """Find files and handler; ``say`` hears which handler ``auto`` chose, and why.

    Raises ConfigError for names and options that do not fit, DataError for files that are not there or not of one kind.
    """
    options = HandlerOptions(columns=input.columns(), json_keys=tuple(input.json_keys), dataset_dir=input.dataset_dir)
    files = resolve_inputs(input.input) if input.handler == AUTO else []
    name = input.handler
    if name == AUTO:
        name = choose_handler(files, options, pregrouped=input.pregrouped, say=say)
    component = plugin_host().handler(name)
    handler = make_handler(component, options)
    recipe: dict[str, Any] = {"handler": component.name, "map_keys": dict(options.columns)}
    if isinstance(handler, DatasetCatalogue):
        names = [str(path) for path in input.input]
        pairs = [(file, rows) for path, rows in handler.datasets(names) for file in resolve_inputs([path])]
        files, handlers = [file for file, _ in pairs], [rows for _, rows in pairs]
        recipe |= {"datasets": names}
    else:
        files = files or resolve_inputs(input.input)
        handlers = [handler] * len(files)
    text_keys = tuple(getattr(handler, "text_keys", ()))
    if text_keys:
        recipe |= {"json_keys": list(text_keys)}
    if input.pregrouped:
        recipe |= {"pregrouped": True}
    return ResolvedInput(files, handlers, component.name, text_keys, recipe, pregrouped=input.pregrouped)


def choose_handler(files: Sequence[Path], options: HandlerOptions, *, pregrouped: bool = False, say: Say) -> str:
    """The one handler that fits the first rows of every file; DataError if a file fits none or several, or they differ.

    Files without rows do not count. A set of several kinds of files is refused: one handler would misread the others.
    """
    options.only("columns", "json_keys", handler=AUTO)
    check_parts(options.columns)
    chosen: dict[str, tuple[Path, Match]] = {}
    for file in files:
        rows = read_records(file)
        records = list(islice(chain.from_iterable(map(elements, rows)) if pregrouped else rows, FIRST_ROWS))
        if records:
            match = _detect(records, options)
            chosen.setdefault(match.handler, (file, match))
    if not chosen:
        raise DataError("SP109", f"no rows in {', '.join(map(str, files))}", help="check --input")
    if len(chosen) > 1:
        kinds = "; ".join(f"{file}: {DETECTED[name]}, {match.why}" for name, (file, match) in chosen.items())
        raise DataError(
            "SP131",
            f"the files are of several kinds ({kinds})",
            help="make a set of each kind on its own, or choose the --handler of all",
        )
    ((name, (_, match)),) = chosen.items()
    say(f"handler {name} ({DETECTED[name]}), because of {match.why}")
    return name


def _detect(records: Sequence[Record], options: HandlerOptions) -> Match:
    rows = [record.value for record in records if isinstance(record.value, Mapping)]
    key = records[0].key
    if not rows:
        kinds = sorted({type(record.value).__name__ for record in records})
        help = "lists of samples that are to share a pack are read with --pregrouped" if "list" in kinds else ""
        raise DataError(
            "SP131", f"{key}: the first rows are {', '.join(kinds)}, not objects", help=help or "check --input"
        )
    matches = detect(rows, options)
    if len(matches) == 1:
        return matches[0]
    columns = list(dict.fromkeys(str(column) for row in rows for column in row))
    found = " and ".join(f"{DETECTED[match.handler]} ({match.why})" for match in matches)
    why = f"several handlers fit: {found}" if matches else "no handler fits"
    if {"chosen", "rejected"} <= {*columns}:
        why += " (preference data cannot be read yet)"
    raise DataError(
        "SP131",
        f"{key}: {why}; the columns are: {', '.join(columns)}",
        help=f"choose --handler {' | '.join(DETECTED.values())}, or another that seqpack plugins lists; columns of "
        "other names need --map-keys, or --json-keys for text",
    )


def _wrong_columns(record: Record, reject: RejectError) -> DataError:
    columns = ", ".join(map(str, record.value))
    return DataError(
        "SP110",
        f"{record.key}: {reject.reason}; its columns are: {columns}",
        help="name the data's columns with --map-keys, or choose another --handler",
    )
