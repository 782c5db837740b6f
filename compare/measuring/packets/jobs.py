"""What the measuring process and the process of the clients tell each other: JSON, a line each."""

from __future__ import annotations

import msgspec

from compare.measuring.packets.ways import Connections
from compare.measuring.turns import TurnRecord

# A client that hears nothing for so long takes the line as lost. The servers send a heartbeat each second.
SILENCE_S = 3.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the clients reach it; ``way`` is a name of ``WAYS`` or ``MOVED``, ``ca`` its CA's file."""

    way: str
    address: str
    key: str
    ca: str | None = None


class Streams(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Read this many turns at once; ``number`` is the round."""

    target: Target
    connections: Connections
    streams: int
    tokens: int
    rate: float
    number: int


class Move(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Read a turn of each server, and change this side's address when each has shown ``after`` tokens.

    ``commands`` change the address.
    """

    targets: list[Target]
    commands: list[list[str]]
    after: int
    tokens: int
    rate: float
    resume: bool
    number: int


Job = Streams | Move


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The clients are connected and warm. The next line on stdin makes them begin."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The turns of the job."""

    turns: list[TurnRecord]
