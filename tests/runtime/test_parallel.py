from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError
from seqpack.runtime.parallel import ParallelPlan, RowShare
from seqpack.runtime.ranks import Ranks, ranks_of


@given(shard=st.integers(1, 16), replicate=st.integers(1, 8))
def test_degrees_multiply_to_the_processes(shard: int, replicate: int) -> None:
    plan = ParallelPlan.of(shard * replicate, dp_replicate=replicate)
    assert (plan.dp_shard, plan.dp_replicate, plan.world_size, plan.dp) == (
        shard,
        replicate,
        shard * replicate,
        shard * replicate,
    )


def test_what_does_not_divide() -> None:
    with pytest.raises(ConfigError, match="4 processes cannot be divided by --dp-replicate 3") as raised:
        ParallelPlan.of(4, dp_replicate=3)
    assert raised.value.code == "SP601"


def test_experts_are_spread_over_data_parallel_processes() -> None:
    assert ParallelPlan.of(8, tp=2, ep=2) == ParallelPlan(dp_shard=4, tp=2, ep=2)
    with pytest.raises(ConfigError, match=r"--ep 3: .* and 4 of them") as raised:
        ParallelPlan.of(8, tp=2, ep=3)
    assert raised.value.code == "SP601"


def test_processes_that_share_rows_read_the_same() -> None:
    plan = ParallelPlan(dp_replicate=2, dp_shard=2, cp=2, tp=2, pp=2)
    shares = np.array([plan.row_share(rank) for rank in range(plan.world_size)], object).reshape(2, 4, 2, 2)
    for place in np.ndindex(shares.shape):
        pp, data, cp, tp = place
        assert shares[place] == RowShare(data, 4, counts=(pp, cp, tp) == (0, 0, 0))
    assert ParallelPlan().row_share(0) == RowShare()


def test_in_words() -> None:
    assert str(ParallelPlan()) == "one process"
    assert str(ParallelPlan.of(8, dp_replicate=2)) == "dp 4 · dp_replicate 2"


def test_ranks_come_from_what_torchrun_sets() -> None:
    assert ranks_of({}) == Ranks(0, 1)
    assert ranks_of({"RANK": "1", "WORLD_SIZE": "3"}) == Ranks(1, 3)
    for rank, size in (("3", "3"), ("-1", "3"), ("a", "3")):
        with pytest.raises(ConfigError) as raised:
            ranks_of({"RANK": rank, "WORLD_SIZE": size})
        assert raised.value.code == "SP601"
