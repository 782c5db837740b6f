"""The cells of the factorial: which encodings, HTTP versions, framings and server libraries can be combined."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

# The levels of each factor. The first level is the one that the others are compared with.
FACTORS: dict[str, tuple[str, ...]] = {
    "encoding": ("JSON", "protobuf"),
    "http": ("HTTP/1.1", "HTTP/2"),
    "framing": ("lines", "SSE", "prefix"),
    "library": ("ASGI", "connectrpc", "grpcio"),
}
TITLES = {"encoding": "encoding", "http": "HTTP version", "framing": "framing", "library": "server library"}
LEVELS = {level: factor for factor, levels in FACTORS.items() for level in levels}


@dataclass(frozen=True, slots=True)
class Cell:
    """One server of the factorial: a level of each factor.

    ``prefix`` is the five-byte prefix of a message, as gRPC and Connect have it. The library ``ASGI`` is uvicorn without a
    framework; connectrpc runs on uvicorn too.
    """

    encoding: str
    http: str
    framing: str
    library: str

    @property
    def name(self) -> str:
        """The levels, such as ``JSON, HTTP/2, prefix, ASGI``."""
        return f"{self.encoding}, {self.http}, {self.framing}, {self.library}"


def possible(cell: Cell) -> bool:
    """Whether there is such a server: binary messages need a prefix, the RPC libraries have no other, grpcio has HTTP/2 alone."""
    if cell.framing != "prefix":
        return cell.encoding == "JSON" and cell.library == "ASGI"
    return cell.library != "grpcio" or cell.http == "HTTP/2"


CELLS = tuple(cell for levels in itertools.product(*FACTORS.values()) if possible(cell := Cell(*levels)))


def pairs(factor: str, level: str, cells: tuple[Cell, ...] = CELLS) -> list[tuple[Cell, Cell]]:
    """The pairs of cells that differ in this factor alone: at its first level, and at ``level``."""
    found = []
    for cell in cells:
        if getattr(cell, factor) == FACTORS[factor][0]:
            other = replace(cell, **{factor: level})
            if other in cells:
                found.append((cell, other))
    return found
