"""Which share of the data a run does."""

from __future__ import annotations

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.data import WorkOptions

VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "RANK", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_all_of_it():
    assert WorkOptions().share == (0, 1) and not WorkOptions().is_share and WorkOptions().takes(7)


def test_flags():
    work = WorkOptions(shard_index=1, num_shards=3)
    assert [shard for shard in range(7) if work.takes(shard)] == [1, 4]


@pytest.mark.parametrize(("index", "count"), [VARIABLES[:2], VARIABLES[2:]])
def test_what_a_launcher_says(monkeypatch, index, count):
    monkeypatch.setenv(index, "2")
    monkeypatch.setenv(count, "4")
    assert WorkOptions().share == (2, 4)
    assert WorkOptions(num_shards=8).share == (2, 8)
    assert WorkOptions(shard_index=0).share == (0, 4)
    assert WorkOptions(num_shards=1).share == (0, 1)


@pytest.mark.parametrize("options", [{"num_shards": 2}, {"shard_index": 1}, {"shard_index": 2, "num_shards": 2}])
def test_half_of_the_flags_is_an_error(options):
    with pytest.raises(ConfigError) as error:
        WorkOptions(**options)
    assert error.value.code == "SP030"
