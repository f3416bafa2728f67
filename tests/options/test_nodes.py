from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.nodes import NodeOptions, Nodes, have_own_disks, nodes_to_start, refuse_checkpoints
from seqpack.options.train import RunOptions

HERE = {"node_rank": 1, "master_addr": "a"}


@pytest.mark.parametrize(
    ("given", "nproc", "environment", "wanted"),
    [
        ({}, None, {}, None),
        ({}, 4, {}, Nodes(4)),
        ({}, 4, {"RANK": "0"}, None),
        ({"nnodes": 2, **HERE}, 4, {"RANK": "0"}, None),
        ({"nnodes": 1, "node_rank": 0}, 2, {}, Nodes(2)),
        ({"nnodes": 2, **HERE}, 4, {}, Nodes(4, 2, 1, "a", 29500)),
        ({"nnodes": 2, **HERE, "master_port": 7}, None, {}, Nodes(1, 2, 1, "a", 7)),
        (
            {},
            None,
            {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "6000", "NPUS_PER_NODE": "8"},
            Nodes(8, 2, 1, "a", 6000),
        ),
        ({"node_rank": 1}, 2, {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "b"}, Nodes(2, 3, 1, "b", 29500)),
        ({}, None, {"NPROC_PER_NODE": "2", "GPUS_PER_NODE": "8"}, Nodes(2)),
        ({}, 3, {"GPUS_PER_NODE": "8"}, Nodes(3)),
        ({}, None, {"NNODES": "", "MASTER_ADDR": "a"}, None),
    ],
)
def test_what_is_started(
    given: dict[str, Any], nproc: int | None, environment: dict[str, str], wanted: Nodes | None
) -> None:
    assert nodes_to_start(NodeOptions(**given), nproc, environment) == wanted


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"nnodes": 2, "master_addr": "a"}, {}, "--node-rank is missing"),
        ({"nnodes": 2, "node_rank": 0}, {}, "--master-addr is missing"),
        ({"nnodes": 2, "node_rank": 2, "master_addr": "a"}, {}, "--node-rank 2 is not one of 2 machines"),
        ({"node_rank": 1}, {}, "--node-rank was given for a single machine"),
        ({"master_addr": "a"}, {}, "--master-addr was given for a single machine"),
        ({}, {"NNODES": "two"}, "NNODES=two, which is no number"),
    ],
)
def test_a_machine_that_does_not_know_its_place(
    given: dict[str, Any], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        nodes_to_start(NodeOptions(**given), None, environment)
    assert raised.value.code == "SP620"


@pytest.mark.parametrize("given", [{"save_interval": 5}, {"resume": Path("x")}])
def test_no_checkpoints_without_a_shared_disk(given: dict[str, Any]) -> None:
    refuse_checkpoints(RunOptions(save=Path("x")))
    with pytest.raises(ConfigError, match="a checkpoint is one directory") as raised:
        refuse_checkpoints(RunOptions(save=Path("x"), **given))
    assert raised.value.code == "SP622"


def test_ranks_are_numbered_machine_by_machine() -> None:
    told = Nodes(4, count=3, rank=2, master_addr="a", master_port=1).environment(1, 1)
    assert (told["RANK"], told["LOCAL_RANK"], told["WORLD_SIZE"], told["GROUP_RANK"]) == ("9", "1", "12", "2")


@pytest.mark.parametrize(
    ("started", "environment", "wanted"),
    [
        (Nodes(2, 2, 0, "a", 1), {}, True),
        (Nodes(2), {}, False),
        (None, {}, False),
        (None, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, True),
        (None, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, False),
    ],
)
def test_one_machine_shares_its_disk(started: Nodes | None, environment: dict[str, str], wanted: bool) -> None:
    assert have_own_disks(NodeOptions(no_shared_storage=True), started, environment) is wanted
    assert not have_own_disks(NodeOptions(), started, environment)
