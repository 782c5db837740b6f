"""Lines that are written without waiting: the readers of a turn get a new event in one pass, and no task of theirs is woken.

A line takes an event only while its connection has room. Otherwise the reader's task is woken, and waits for room as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.types import Scope

from shared.store.record import Record

# The key in a connection's scope, on the ASGI servers that have it: a function that writes a piece of the open body if the
# connection has room, and returns whether it has; for a WebSocket one that writes text frames, and returns how many.
WRITE_NOW = "genai.write_now"


class BodyLine:
    """An open body: the events of one call are one piece."""

    __slots__ = ("_frame", "_write_now")

    def __init__(self, write_now: Callable[[bytes], bool], frame: Callable[[Record], bytes]) -> None:
        self._write_now = write_now
        self._frame = frame

    def send_now(self, records: Sequence[Record]) -> int:
        """Send events, all or none. Returns how many were sent."""
        return len(records) if self._write_now(b"".join([record.framed(self._frame) for record in records])) else 0


class SocketLine:
    """A WebSocket: each event is a text frame. A piece of a picture has two frames, and is left to the task."""

    __slots__ = ("_frame", "_write_now")

    def __init__(self, write_now: Callable[[Sequence[str]], int], frame: Callable[[Record], str]) -> None:
        self._write_now = write_now
        self._frame = frame

    def send_now(self, records: Sequence[Record]) -> int:
        """Send events while there is room. Returns how many were sent."""
        texts: list[str] = []
        for record in records:
            if record.data is not None:
                break
            texts.append(record.framed(self._frame))
        return self._write_now(texts)


def socket_line(scope: Scope, frame: Callable[[Record], str]) -> SocketLine | None:
    """The line of a WebSocket that has been accepted; None on an ASGI server that cannot write without waiting."""
    return SocketLine(scope[WRITE_NOW], frame) if WRITE_NOW in scope else None


def at_once(sending: Coroutine[Any, Any, None]) -> bool:
    """Run uvicorn's ``send`` to its end, where it has nothing to wait for. Returns whether it was sent.

    uvicorn waits for room before it writes, and for nothing else. So a ``send`` that waits has written nothing.
    """
    try:
        sending.send(None)
    except StopIteration:
        return True
    except (RuntimeError, OSError):
        # The client has left. The reader's task sends again, and learns it.
        return False
    sending.close()
    return False
