"""Through which network interface the machines of a run reach each other."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME")
_SIOCGIFADDR = 0x8915


def interface_variables(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that all libraries take the interface towards ``address``: those that are not set already.

    Left to itself, gloo takes the address of this machine's own name, which Debian makes 127.0.1.1. Empty where the
    interface cannot be found out.
    """
    name = _interface_towards(address)
    return {variable: name for variable in VARIABLES if name and variable not in environment}


def _interface_towards(address: str) -> str | None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
            local = probe.getsockname()[0]
            names = [name for _, name in socket.if_nameindex()]
            return next((name for name in names if _address_of(probe, name) == local), None)
    except OSError:
        return None


def _address_of(probe: socket.socket, interface: str) -> str | None:
    try:
        import fcntl

        request = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    except (OSError, ImportError):
        return None
