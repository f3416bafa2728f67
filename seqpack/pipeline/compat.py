"""``--compat mindspeed``: which of MindSpeed-LLM's rules a run follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqpack.core.errors import ConfigError
from seqpack.handlers.mindspeed import MindSpeedAlpacaHandler
from seqpack.io.indexed import idx_path, write_index
from seqpack.io.packed import COLUMNS, DataSetPaths, PieceIndex
from seqpack.options.compat import CompatOptions
from seqpack.options.data import LengthOptions, PackOptions
from seqpack.pipeline.mindspeed import SHORT_SIDE_TEMPLATES, Rules, TurnRule, document_index
from seqpack.pipeline.samples import SampleSource

ALPACA = "AlpacaStyleInstructionHandler"


def use_mindspeed_rules(source: SampleSource, length: LengthOptions, pack: PackOptions, compat: CompatOptions) -> None:
    """Make ``source`` read, cut and pack as MindSpeed-LLM does; ConfigError for a handler whose rules are not known."""
    if source.recipe["handler"] != ALPACA:
        raise ConfigError(
            "SP027",
            f"--compat mindspeed does not know how MindSpeed-LLM treats rows of {source.recipe['handler']!r}",
            help=f"it covers {ALPACA}; leave --compat out to make the data by seqpack's own rules",
        )
    short_side = source.recipe["prompt_type"] in SHORT_SIDE_TEMPLATES
    source.handler = MindSpeedAlpacaHandler(source.recipe["map_keys"])
    source.allow_special_tokens = True  # they let texts of the data become control tokens
    source.mindspeed = Rules(
        seq_length=length.seq_length,
        packs=pack.packs,
        neat_pack=pack.neat_pack,
        turn_rule=TurnRule.SHORT_SIDE_FIRST if short_side else TurnRule.PROPORTIONAL,
        end_token_id=source.eos_token_id if compat.append_eod else None,
        n_subs=compat.n_subs or 1,
    )


def write_mindspeed_documents(paths: DataSetPaths, pieces: PieceIndex, is_kept: Sequence[bool]) -> None:
    """Give the files of an unpacked set the document index MindSpeed-LLM gives them."""
    documents = document_index(np.array(is_kept, np.bool_))
    for column in COLUMNS:
        write_index(idx_path(paths.column(column)), pieces.length, np.dtype("<i4"), documents)
