"""Parts of preference pairs and prompts: what a worker leaves for a shard, and all of them as the columns of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqpack.core.errors import DataError
from seqpack.core.ledger import Ledger
from seqpack.io.indexed import IndexedWriter, idx_path, write_index
from seqpack.io.manifest import TextRecord
from seqpack.io.packed import ColumnPaths
from seqpack.io.readers import Record
from seqpack.io.shards import Shard
from seqpack.options.data import LengthOptions
from seqpack.pipeline.distribute import Advance
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.loss import Loss
from seqpack.pipeline.mindspeed import CUT, TOO_LONG, document_index
from seqpack.pipeline.parts import Part, PartStore, PartWriter
from seqpack.pipeline.samples import SampleSource, count_row

if TYPE_CHECKING:
    from seqpack.pipeline.columns import ColumnMaker, ColumnRow

ROWS_PER_BATCH = 256
LONGER = "longer than --seq-length"
IS_KEPT = "is_kept"


def make_column_part(
    source: SampleSource, maker: ColumnMaker, shard: Shard, length: LengthOptions, store: PartStore, advance: Advance
) -> int:
    """Tokenize a shard and write its part; returns the number of rows in it. The source's ledger counts it."""
    columns = range(len(column_names(source.input)))
    with PartWriter(store.prefix(shard), shard, [IS_KEPT, *map(_ids, columns), *map(_lengths, columns)]) as writer:
        for batch in _batches(source, maker, shard, length, lambda loss: writer.lost(loss.to_json())):
            rows = [row for row in batch if row is not None]
            writer.add(IS_KEPT, np.array([row is not None for row in batch], np.bool_))
            for column in columns:
                values = [np.asarray(row.values[column], np.int32) for row in rows]
                writer.add(_ids(column), np.concatenate([np.zeros(0, np.int32), *values]))
                writer.add(_lengths(column), np.array(list(map(len, values)), np.int32))
            advance(len(rows))
        writer.finish(source.ledger, {})
    return source.ledger.kept.samples


def column_names(input: ResolvedInput) -> tuple[str, ...]:
    """How the columns are called; only for handlers of a ``kind`` that has columns."""
    return tuple(input.handlers[0].column_names)  # type: ignore[attr-defined]  # kind_of has looked


def join_ledgers(parts: Sequence[Part]) -> Ledger:
    """The ledger of all parts together."""
    ledger = Ledger()
    for part in parts:
        ledger.add(part.ledger)
    return ledger


def write_parts(parts: Sequence[Part], paths: ColumnPaths, *, keeps_places: bool) -> dict[str, TextRecord]:
    """Write rejects and columns; returns the counts of each. ``keeps_places``: see ``ColumnMaker``."""
    with paths.rejects.open("wb") as file:
        for part in parts:
            file.write(part.rejects.read_bytes())
    is_kept = _joined(parts, IS_KEPT, "?")
    documents = document_index(is_kept) if keeps_places and not is_kept.all() else None
    records = {}
    for column, key in enumerate(paths.keys):
        with IndexedWriter(paths.column(key)) as writer:
            for part in parts:
                writer.append(part.array(_ids(column), "<i4"), part.array(_lengths(column), "<i4"))
        lengths = _joined(parts, _lengths(column), "<i4")
        if documents is not None:
            write_index(idx_path(paths.column(key)), lengths, np.dtype("<i4"), documents)
        num_empty, num_tokens = int(np.count_nonzero(lengths == 0)), int(lengths.sum(dtype=np.int64))
        records[key] = TextRecord(len(lengths), num_empty, num_tokens)
    return records


def _batches(
    source: SampleSource, maker: ColumnMaker, shard: Shard, length: LengthOptions, lost: Callable[[Loss], None]
) -> Iterator[list[ColumnRow | None]]:
    """The rows in the order of the data, None for one that is too long; the ledger counts all."""
    rows = source.input.rows(lambda items: [maker.render(item) for item in items], [shard])
    while batch := list(islice(rows, ROWS_PER_BATCH)):
        records = [record for _, record, item in batch if count_row(source.ledger, lost, record, item)]
        encoded = maker.encode([item for _, _, item in batch if not isinstance(item, str)])
        pairs = zip(records, encoded, strict=True)
        yield [_fit(source.ledger, maker, record, row, length, lost) for record, row in pairs]


def _fit(
    ledger: Ledger,
    maker: ColumnMaker,
    record: Record,
    row: ColumnRow,
    length: LengthOptions,
    lost: Callable[[Loss], None],
) -> ColumnRow | None:
    limit = length.seq_length
    # theirs drops what reaches the length, ours what exceeds it
    if limit is None or row.longest < limit + (not maker.keeps_places):
        ledger.keep(row.num_tokens, row.num_trained, original=row.original)
        if row.original > row.num_tokens:
            lost(Loss(record.key, "truncated", CUT, row.original - row.num_tokens))
        return row
    if length.on_overlong == "error":
        raise DataError(
            "SP108",
            f"{record.key}: {row.longest:,} tokens do not fit --seq-length {limit:,}",
            help="raise it, or choose --on-overlong drop",
        )
    reason = TOO_LONG if maker.keeps_places else LONGER
    ledger.drop(reason, row.original)
    lost(Loss(record.key, "dropped", reason, row.original))
    return None


def _joined(parts: Sequence[Part], name: str, dtype: str) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(part.array(name, dtype) for part in parts)])


def _ids(column: int) -> str:
    return f"ids-{column}"


def _lengths(column: int) -> str:
    return f"lengths-{column}"
