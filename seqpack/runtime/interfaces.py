"""The network interfaces that the environment names; a wrong name hangs a run, or fails it far from the cause."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from seqpack.core.errors import DistributedError


def check_interfaces(environment: Mapping[str, str], interfaces: Sequence[str] | None = None) -> None:
    """DistributedError SP611 if GLOO_SOCKET_IFNAME or HCCL_SOCKET_IFNAME names none of this machine's interfaces."""
    if interfaces is None:
        interfaces = [name for _, name in socket.if_nameindex()]
    if names := environment.get("GLOO_SOCKET_IFNAME"):
        for name in names.split(","):
            if name not in interfaces:
                _refuse("GLOO_SOCKET_IFNAME", names, interfaces)
    rule = environment.get("HCCL_SOCKET_IFNAME")
    if rule and "HCCL_IF_IP" not in environment and not _hccl_matches(rule, interfaces):
        _refuse("HCCL_SOCKET_IFNAME", rule, interfaces)


def _hccl_matches(rule: str, interfaces: Sequence[str]) -> bool:
    """HCCL's notation: beginnings of names, ``=`` before whole names, ``^`` before either for all others."""
    excluding = rule.startswith("^")
    rule = rule.removeprefix("^")
    whole = rule.startswith("=")
    names = rule.removeprefix("=").split(",")
    matches = [name in names if whole else name.startswith(tuple(names)) for name in interfaces]
    return any(match != excluding for match in matches)


def _refuse(variable: str, value: str, interfaces: Sequence[str]) -> None:
    raise DistributedError(
        "SP611",
        f"{variable}={value} names no network interface of this machine",
        help=f"it has {', '.join(interfaces)}; name the one through which the machines reach each other",
    )
