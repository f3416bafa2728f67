"""``seqpack stats`` of pretraining text: documents instead of samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.core.progress import Progress
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, TextOptions
from seqpack.pipeline.documents import DocumentSource
from seqpack.pipeline.forecast import Stats, forecast, sampling_error
from seqpack.pipeline.inputs import ResolvedInput
from seqpack.pipeline.layouts import concatenated, suggest_length
from seqpack.pipeline.pretrain import refuse_text_flags
from seqpack.pipeline.samples import check_loss


def text_stats(
    found: ResolvedInput, text: TextOptions, length: LengthOptions, *, seed: int, batch_size: int, progress: Progress
) -> Stats:
    """Lengths of all documents, and what it costs to pad them, to cut their stream, or to pack them cut at the length.

    Documents without tokens do not count. Errors as ``preprocess`` raises them for text.
    """
    refuse_text_flags(found, text, length)
    source = DocumentSource.open(found, text, length, CompatOptions())
    engine = source.choose_engine(text.tokenizer_engine)
    with progress("tokenize", unit="documents") as advance:
        lengths = np.concatenate([np.zeros(0, np.int32), *source.measure(advance)])
    sampled = found.sampled
    if sampled and sampled.seen and not sampled.taken:
        raise ConfigError(
            "SP001", f"--sample takes none of {sampled.seen:,} rows", help="take a larger part, or another --seed"
        )
    check_loss(source.ledger, found.files, replace(length, max_drop=1.0))
    original = lengths.astype(np.int64)
    seq_length = length.seq_length or suggest_length(original)
    return Stats(
        files=tuple(map(str, found.files)),
        engine=engine.label,
        engine_refused=engine.refused,
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
