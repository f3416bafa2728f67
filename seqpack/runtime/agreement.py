"""Before they train together, ranks compare what each is about to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch.distributed as dist

from seqpack.core.errors import DistributedError
from seqpack.runtime.ranks import Ranks


def check_agreement(ranks: Ranks, facts: Mapping[str, object]) -> None:
    """DistributedError SP613, on every rank, if one has another value than rank 0 for any of the ``facts``."""
    if ranks.size == 1:
        return
    mine = {name: _short(value) for name, value in facts.items()}
    everyone: list[dict[str, str]] = [{} for _ in range(ranks.size)]
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        for name in dict.fromkeys([*everyone[0], *theirs]):
            ours, other = everyone[0].get(name), theirs.get(name)
            if ours != other:
                raise DistributedError(
                    "SP613",
                    f"rank {rank} was started with another {name} than rank 0: {other}, not {ours}",
                    help="start all ranks with the same options, the same files and the same versions",
                )


def _short(value: object) -> str:
    """Itself, if people can read it; else enough of a digest to tell two apart."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 80 else hashlib.sha256(text.encode()).hexdigest()[:12]
