"""``seqpack pack``: the samples of a tokenized set in new packs, at copy speed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpack import __version__
from seqpack.core.errors import ConfigError, DataError, DataLossError
from seqpack.core.ledger import Ledger
from seqpack.core.progress import Progress, no_progress
from seqpack.hooks.host import plugin_host
from seqpack.io.indexed import bin_path
from seqpack.io.packed import DataSetPaths, PackedDataset, file_records
from seqpack.io.planned import LEFT_OUT, ledger_without
from seqpack.io.publish import partial_folder
from seqpack.options.data import RepackOptions, StrategyOptions, WriteOptions
from seqpack.packing.planning import check_strategy, cuts_samples, make_plan
from seqpack.pipeline.emit import emit
from seqpack.pipeline.materialize import write_packs
from seqpack.pipeline.output import DataSetResult, check_output, packing_record, publish_set
from seqpack.pipeline.table import TokenSource, table_of_pieces

NO_LIMIT = 1 << 62


def repack(
    repack: RepackOptions,
    strategy: StrategyOptions,
    write: WriteOptions,
    *,
    resolved: str = "",
    progress: Progress = no_progress,
) -> DataSetResult:
    """Pack the samples of the set ``repack.source`` into the set ``--output-prefix``; the source stays as it is.

    Samples are put back in the order of the raw data before planning, so that the result does not depend on how the
    source was packed. Raises as ``preprocess`` does.
    """
    strategy.check()
    if repack.source is None:
        raise ConfigError("SP001", "PREFIX is missing", help="name a set made by seqpack preprocess")
    component = plugin_host().strategy(strategy.strategy)
    check_strategy(component, seq_length=repack.seq_length, align=strategy.align, max_docs=strategy.max_docs)
    paths = DataSetPaths(write.output_prefix)
    check_output(paths, write)
    source = PackedDataset.open(repack.source)
    any_length = repack.on_overlong == "split" or (repack.on_overlong == "error" and cuts_samples(component))
    kept, ledger, losses = _fit(source, repack, NO_LIMIT if any_length else repack.seq_length)
    with _sources(source, kept) as tokens, partial_folder(paths.prefix) as folder:
        plan = make_plan(
            component,
            tokens.lengths,
            seq_length=repack.seq_length,
            split=repack.on_overlong == "split",
            **strategy.planning,
        )
        aside = DataSetPaths(folder / paths.prefix.name)
        pad_token_id = source.manifest.tokenizer.pad_token_id
        write_packs(
            plan,
            tokens,
            aside,
            ledger=ledger,
            mask=strategy.mask_mode,
            pad_token_id=pad_token_id,
            progress=progress,
        )
        extra = emit(write, plan, aside)
        old_rejects = source.paths.rejects.read_text(encoding="utf-8")
        aside.rejects.write_text(old_rejects + "".join(map(_json_line, losses)), encoding="utf-8")
        aside.resolved.write_text(resolved, encoding="utf-8")
        manifest = dataclasses.replace(
            source.manifest,
            packed=True,
            seq_length=repack.seq_length,
            strategy=component.name,
            mask=strategy.mask_mode,
            seed=strategy.seed,
            num_rows=len(plan),
            num_samples=ledger.kept.samples,
            ledger=ledger,
            files=file_records(aside),
            packing=packing_record(strategy, repack.on_overlong),
            seqpack_version=__version__,
        )
        publish_set(aside, paths, manifest, extra=extra)
    return DataSetResult(paths, manifest)


def _fit(
    source: PackedDataset, repack: RepackOptions, limit: int
) -> tuple[NDArray[np.int64], Ledger, list[dict[str, Any]]]:
    """The pieces that fit, in the order of the raw data; the ledger; and a line for each sample that does not fit."""
    pieces = source.pieces
    too_long = np.flatnonzero(pieces.length > limit)
    if len(too_long) and repack.on_overlong == "error":
        worst = int(too_long[pieces.length[too_long].argmax()])
        raise DataError(
            "SP108",
            f"{len(too_long):,} samples do not fit --seq-length {repack.seq_length:,}; the longest, "
            f"{pieces.key(worst)}, has {pieces.length[worst]:,} tokens",
            help="raise it, choose --on-overlong drop or split, or run seqpack preprocess, which can truncate inside "
            "the texts",
        )
    if len(too_long) > repack.max_drop * len(pieces):
        raise DataLossError(
            "SP102",
            f"{len(too_long):,} of {len(pieces):,} samples would be left out, --max-drop is {repack.max_drop:.1%}",
            help="raise --seq-length or --max-drop; nothing was written",
        )
    if len(too_long) == len(pieces):
        raise DataError(
            "SP109", f"none of {len(pieces):,} samples fit --seq-length {repack.seq_length:,}", help="raise it"
        )
    ledger = ledger_without(source.manifest.ledger, pieces, too_long)
    losses = [
        {"key": pieces.key(piece), "outcome": "dropped", "reason": LEFT_OUT, "tokens": int(pieces.length[piece])}
        for piece in too_long.tolist()
    ]
    order = pieces.order
    return order[pieces.length[order] <= limit], ledger, losses


def _sources(source: PackedDataset, kept: NDArray[np.int64]) -> TokenSource:
    table = table_of_pieces(source.pieces, source.piece_starts)[kept]
    files = (bin_path(source.paths.column("input_ids")), bin_path(source.paths.column("labels")))
    has_parts = source.pieces.start is not None
    return TokenSource(table, [files], source.pieces.sources, has_parts)


def _json_line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
