"""``--input`` and ``--handler`` resolved: which files are read, and by which handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from seqpack.core.errors import ConfigError, DataError, PluginError, RejectError, SeqpackError, UncoveredError
from seqpack.core.progress import Say
from seqpack.core.types import SET_KINDS, Dialogue, SetKind
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import DatasetCatalogue, DatasetHandler, HandlerOptions, dialogues_of, make_handler
from seqpack.io.readers import Record, resolve_inputs
from seqpack.io.readers.record import elements
from seqpack.io.shards import Shard, cut, read_blocks, read_shard
from seqpack.options.data import InputOptions
from seqpack.pipeline.auto_handler import AUTO, choose_handler
from seqpack.pipeline.row_sample import RowSample

T = TypeVar("T")
Row = tuple[int, Record, T | str]
"""Number of the file, the row, and what became of it, or why nothing did."""

Fill = Callable[[Sequence[Dialogue | None]], Sequence[T | None]]


@dataclass(frozen=True, slots=True)
class ResolvedInput:
    """The files and, for each, the handler of its rows; ``handler`` is the component's name.

    ``text_keys`` is empty for conversations; else the rows are pretraining text, a document for each key. ``kind`` is
    that of the set they make. ``sets`` numbers the data set of each file; no more than ``max_rows`` rows of each are
    read.
    """

    files: list[Path]
    handlers: list[DatasetHandler]
    handler: str
    text_keys: tuple[str, ...]
    recipe: dict[str, Any]
    kind: SetKind = "sft"
    sets: tuple[int, ...] = ()
    max_rows: int | None = None
    sampled: RowSample | None = None
    """Which rows are used, if not all."""
    pregrouped: bool = False
    """Whether a row may be a list of what are rows otherwise."""

    def rows(self, use: Callable[[Sequence[Any]], list[T]], shards: Iterable[Shard] | None = None) -> Iterator[Row[T]]:
        """What ``use`` makes of the samples of each row, with the number of the file and the row.

        ``shards`` are the parts of the files to read, all of them by default. ``use`` may raise RejectError, as the
        handler may: the row then comes with the reason, once. A row that gives several things says only with the first
        that it was mended. Raises DataError for a file that cannot be read, a file
        whose first row lacks the columns its handler needs, and a handler that fails.
        """
        for shard in self.shards() if shards is None else shards:
            for block, is_start in self._blocks(shard):
                for record in block:
                    yield from self._row(shard, record, use, is_first=is_start and record is block[0])

    def batches(
        self, use: Callable[[Sequence[Any]], list[T]], fill: Fill[T], shards: Iterable[Shard] | None = None
    ) -> Iterator[list[Row[T]]]:
        """As ``rows``, a bounded number of bytes at a time.

        ``fill`` makes something of the dialogues that a handler finds in many rows at once (see ``DatasetHandler``);
        where it gives None, the row is handled and used like any other.
        """
        for shard in self.shards() if shards is None else shards:
            for block, is_start in self._blocks(shard):
                rows: list[Row[T]] = []
                for record, item in zip(block, self._filled(shard, block, fill), strict=True):
                    if item is None:
                        rows += self._row(shard, record, use, is_first=is_start and record is block[0])
                    else:
                        rows.append((shard.number, record, item))
                yield rows

    def _filled(self, shard: Shard, block: Sequence[Record], fill: Fill[T]) -> Sequence[T | None]:
        """What ``fill`` makes of each record; DataError if the handler's ``dialogues`` fails."""
        dialogues = dialogues_of(self.handlers[shard.number])
        if dialogues is None or self.pregrouped:
            return [None] * len(block)
        try:
            items = fill(dialogues([record.value if type(record.value) is dict else {} for record in block]))
            if len(items) != len(block):
                raise ValueError(f"{len(items)} of {len(block)} records")
        except Exception as error:
            raise DataError(
                "SP107",
                f"{block[0].key} and on: handler {self.handler!r} failed in dialogues() with {type(error).__name__}: "
                f"{error}",
                help="mend the handler: for each record a dialogue or None",
            ) from error
        return items

    def _blocks(self, shard: Shard) -> Iterator[tuple[list[Record], bool]]:
        """The records of a shard, some at a time; True with those that begin with the first row of the file."""
        left = shard.num_rows
        is_start = shard.first_line == 1
        for block in read_blocks(shard, wanted=self._wanted(shard)):
            if block[:left]:
                yield block[:left], is_start and (self.sampled is None or block[0].line == 1)
                is_start = False
            if left is not None:
                left = max(left - len(block), 0)

    def _row(
        self, shard: Shard, record: Record, use: Callable[[Sequence[Any]], list[T]], *, is_first: bool
    ) -> Iterator[tuple[int, Record, Any]]:
        handler = self.handlers[shard.number]
        for row in elements(record) if self.pregrouped else (record,):
            try:
                if not isinstance(row.value, dict):
                    raise self._no_object(row)
                items = use(list(handler(row.value)))
            except Exception as error:
                yield shard.number, row, self._reason(row, error, is_first=is_first)
            else:
                for item in items:
                    yield shard.number, row, item
                    if row.num_mended:
                        row = row._replace(num_mended=0)
            is_first = False

    def _wanted(self, shard: Shard) -> Callable[[int], bool] | None:
        return None if self.sampled is None else partial(self.sampled.takes, shard.number)

    def _no_object(self, record: Record) -> RejectError:
        kind = type(record.value).__name__
        hint = " (--pregrouped reads lists of samples)" if kind == "list" and not self.pregrouped else ""
        return RejectError(f"a JSON {kind}, not an object{hint}")

    def shards(self) -> Iterator[Shard]:
        """All parts of the data; under ``max_rows`` the last ones of a data set are cut short, or left out."""
        num_left: dict[int, int] = {}
        for shard in cut(self.files):
            if self.max_rows is None:
                yield shard
                continue
            left = num_left.setdefault(self.sets[shard.number], self.max_rows)
            num_rows = sum(1 for _ in islice(read_shard(shard), left))
            num_left[self.sets[shard.number]] = left - num_rows
            yield replace(shard, num_rows=num_rows)

    def read_by(self, handler: DatasetHandler) -> ResolvedInput:
        """The same files, all read by another handler."""
        return replace(self, handlers=[handler] * len(self.files))

    def _reason(self, record: Record, error: Exception, *, is_first: bool) -> str:
        """Why a row gives nothing; raises what is not the fault of a single row."""
        if isinstance(error, RejectError):
            if error.missing_column and is_first:
                raise _wrong_columns(record, error) from error
            return error.reason
        if isinstance(error, SeqpackError):
            raise error
        if isinstance(error, UncoveredError):
            raise DataError(
                "SP136",
                f"{record.key}: {error}: --compat mindspeed has no rule, or MindSpeed-LLM stops there itself",
                help="mend or remove that row, or leave --compat out",
            ) from error
        if isinstance(error, RecursionError):  # JSON inside a text; that of a row its reader refuses
            return "nested too deeply"
        raise DataError(
            "SP107",
            f"{record.key}: handler {self.handler!r} failed with {type(error).__name__}: {error}",
            help="mend that row, or the handler (it should raise RejectError for rows it cannot use)",
        ) from error


def resolve_input(input: InputOptions, *, say: Say) -> ResolvedInput:
    """Find files and handler; ``say`` hears which handler ``auto`` chose, and why.

    Raises ConfigError for names and options that do not fit, DataError for files that are not there or not of one kind.
    """
    options = handler_options(input)
    files = resolve_inputs(input.input) if input.handler == AUTO else []
    name = input.handler
    if name == AUTO:
        name = choose_handler(files, options, pregrouped=input.pregrouped, say=say)
    component, handler = open_handler(name, options)
    recipe: dict[str, Any] = {"handler": component.name, "map_keys": dict(options.columns)}
    if isinstance(handler, DatasetCatalogue):
        names = [str(path) for path in input.input]
        sets = handler.datasets(names)
        pairs = [(file, rows, number) for number, (path, rows) in enumerate(sets) for file in resolve_inputs([path])]
        files, handlers = [file for file, _, _ in pairs], [rows for _, rows, _ in pairs]
        numbers = tuple(number for _, _, number in pairs)
        recipe |= {"datasets": names}
    else:
        files = files or resolve_inputs(input.input)
        handlers, numbers = [handler] * len(files), (0,) * len(files)
    text_keys = tuple(getattr(handler, "text_keys", ()))
    if text_keys:
        recipe |= {"json_keys": list(text_keys)}
    if options.additional_keys:
        recipe |= {"dataset_additional_keys": list(options.additional_keys)}
    if input.max_samples is not None:
        recipe |= {"max_samples": input.max_samples}
    if input.pregrouped:
        recipe |= {"pregrouped": True}
    return ResolvedInput(
        files,
        handlers,
        component.name,
        text_keys,
        recipe,
        _kind(handlers, component.name),
        numbers,
        input.max_samples,
        pregrouped=input.pregrouped,
    )


def handler_options(input: InputOptions) -> HandlerOptions:
    """What the command line says to a handler."""
    return HandlerOptions(
        columns=input.columns(),
        json_keys=tuple(input.json_keys),
        dataset_dir=input.dataset_dir,
        additional_keys=tuple(input.dataset_additional_keys),
    )


def open_handler(name: str, options: HandlerOptions) -> tuple[Component[DatasetHandler], DatasetHandler]:
    """The handler of that name, and its component. ConfigError for an unknown name or options it does not take."""
    component = plugin_host().handler(name)
    return component, make_handler(component, options)


def kind_of(handler: DatasetHandler, name: str) -> SetKind:
    """The kind of set that a handler's samples make; PluginError if what it says does not go together."""
    gives_text = bool(getattr(handler, "text_keys", ()))
    kind: SetKind = getattr(handler, "kind", "pretrain" if gives_text else "sft")
    needs_columns = kind in ("pairwise", "prompt")
    if kind not in SET_KINDS:
        problem = f"kind {kind!r} is none of {', '.join(SET_KINDS)}"
    elif (kind == "pretrain") != gives_text:
        problem = f"kind {kind!r} goes with {'no ' if gives_text else ''}text_keys"
    elif needs_columns and not getattr(handler, "column_names", ()):
        problem = f"kind {kind!r} goes with column_names, which it does not have"
    else:
        return kind
    raise PluginError("SP021", f"handler {name!r}: {problem}", help="report it to the author of the plugin")


def _kind(handlers: Sequence[DatasetHandler], name: str) -> SetKind:
    kinds = sorted({kind_of(handler, name) for handler in handlers})
    if len(kinds) > 1:
        raise ConfigError(
            "SP022",
            f"handler {name!r}: the data sets are of several kinds: {', '.join(kinds)}",
            help="make a set of each kind on its own",
        )
    return kinds[0] if kinds else "sft"


def _wrong_columns(record: Record, reject: RejectError) -> DataError:
    columns = ", ".join(map(str, record.value))
    return DataError(
        "SP110",
        f"{record.key}: {reject.reason}; its columns are: {columns}",
        help="name the data's columns with --map-keys, or choose another --handler",
    )
