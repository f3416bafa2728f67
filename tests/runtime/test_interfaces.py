from __future__ import annotations

import pytest

from seqpack.core.errors import DistributedError
from seqpack.runtime.interfaces import check_interfaces

HERE = ["lo", "eth0", "enp67s0f5"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"GLOO_SOCKET_IFNAME": "eth0"},
        {"GLOO_SOCKET_IFNAME": "eth0,lo"},
        {"HCCL_SOCKET_IFNAME": "eth"},
        {"HCCL_SOCKET_IFNAME": "=eth0"},
        {"HCCL_SOCKET_IFNAME": "bond,enp"},
        {"HCCL_SOCKET_IFNAME": "^lo"},
        {"HCCL_SOCKET_IFNAME": "^=lo,eth0"},
        {"HCCL_SOCKET_IFNAME": "bond", "HCCL_IF_IP": "10.0.0.1"},  # goes before the name
    ],
)
def test_names_that_lead_somewhere(environment: dict[str, str]) -> None:
    check_interfaces(environment, HERE)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GLOO_SOCKET_IFNAME", "eth1"),
        ("GLOO_SOCKET_IFNAME", "eth0,eth1"),
        ("GLOO_SOCKET_IFNAME", "eth"),  # whole names alone
        ("HCCL_SOCKET_IFNAME", "eth1"),
        ("HCCL_SOCKET_IFNAME", "=eth"),
        ("HCCL_SOCKET_IFNAME", "^lo,eth,enp"),
        ("HCCL_SOCKET_IFNAME", "^=lo,eth0,enp67s0f5"),
    ],
)
def test_names_that_are_not_there(variable: str, value: str) -> None:
    with pytest.raises(DistributedError, match=f"{variable}=") as raised:
        check_interfaces({variable: value}, HERE)
    assert raised.value.code == "SP611"
    assert "it has lo, eth0, enp67s0f5" in raised.value.help


def test_this_machine_is_asked() -> None:
    check_interfaces({"GLOO_SOCKET_IFNAME": "lo"})
    with pytest.raises(DistributedError, match="nosuch0"):
        check_interfaces({"GLOO_SOCKET_IFNAME": "nosuch0"})
