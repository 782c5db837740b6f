"""Free TCP ports on loopback, for a program that must know its port before it starts, or that keeps its port over a restart.

A port that the system chooses (port 0) is an *ephemeral* one. When its server ends, any client on this machine may get that port
for a connection, and then the server cannot start there again. So these ports lie below the system's ephemeral range.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_LOWEST = 20_000
# Where the ephemeral ports begin: on Linux this file says it, elsewhere RFC 6335, section 6.
_LINUX_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL = 49_152

_given: set[int] = set()


def free_port() -> int:
    """A port on which no program listens now. Each call returns another one. Raises OSError when there is none."""
    return free_ports_in_a_row(1)


def free_ports_in_a_row(count: int) -> int:
    """The first of ``count`` ports in a row on which no program listens now. Raises OSError when there are none."""
    end = _first_ephemeral()
    beginnings = list(range(_LOWEST, end - count + 1))
    # Two processes whose generators have the same seed, as in tests, would choose the same ports; the system's has no seed.
    random.SystemRandom().shuffle(beginnings)
    for first in beginnings:
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(_is_free(port) for port in ports):
            _given.update(ports)
            return first
    raise OSError(f"too few free TCP ports on 127.0.0.1 from {_LOWEST} to {end - 1}; end programs that hold them")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def _first_ephemeral() -> int:
    with contextlib.suppress(OSError):
        first = int(_LINUX_RANGE.read_text(encoding="ascii").split()[0])
        return first if first > _LOWEST else _EPHEMERAL
    return _EPHEMERAL
