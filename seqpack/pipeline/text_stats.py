"""``seqpack stats`` of pretraining text: documents instead of samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.core.progress import Progress
from seqpack.options.check import refuse_idle
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.forecast import Stats, forecast, sampling_error
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.layouts import concatenated, suggest_length
from seqpack.pipeline.pretrain import DocumentSource, refuse_sample_flags
from seqpack.pipeline.samples import check_loss


def text_stats(
    found: ResolvedInput, text: TextOptions, length: LengthOptions, *, seed: int, batch_size: int, progress: Progress
) -> Stats:
    """Lengths of all documents, and what it costs to pad them, to cut their stream, or to pack them cut at the length.

    Documents without tokens do not count. Errors as ``preprocess`` raises them for text.
    """
    refuse_sample_flags(found, text)
    refuse_idle(length, ("on_overlong",), because="documents stay whole", help="leave it out")
    source = DocumentSource.open(found, text, length, CompatOptions())
    lengths: list[int] = []
    with progress("tokenize", unit="documents") as advance:
        for batch in source.tokenize(lost=lambda loss: None):
            lengths += [len(ids) for ids in chain.from_iterable(batch) if ids]
            advance(len(batch))
    sampled = found.sampled
    if sampled and sampled.seen and not sampled.taken:
        raise ConfigError(
            "SP001", f"--sample takes none of {sampled.seen:,} rows", help="take a larger part, or another --seed"
        )
    check_loss(source.ledger, found.files, replace(length, max_drop=1.0))
    original = np.array(lengths, np.int64)
    seq_length = length.seq_length or suggest_length(original)
    return Stats(
        files=tuple(map(str, found.files)),
        engine=f"{source.tokenizer.name} {source.tokenizer.version}",
        engine_refused="",
        handler=found.handler,
        prompt_type="none",
        ledger=source.ledger,
        longest=(),
        source="pretraining text",
        sampled=sampling_error(original, sampled, seen=sampled.seen, taken=sampled.taken) if sampled else None,
        **forecast(
            original,
            np.minimum(original, seq_length),
            seq_length=seq_length,
            was_given=length.seq_length is not None,
            seed=seed,
            batch_size=batch_size,
            cut=int((original > seq_length).sum()),
            scale=sampled.seen / sampled.taken if sampled else 1.0,
            first=(concatenated(original, seq_length),),
        ),
    )
