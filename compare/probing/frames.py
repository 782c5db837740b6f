"""The frames of each wire as events: JSON lines, Server-Sent Events, JSON text, protobuf.

The parsers are written again here: the clients of the five transports do not tell in which piece an event arrived.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod

from compare.probing.heard import Heard
from protocols.grpc import chat_pb2 as pb

# The flag of gRPC-Web's last message.
_TRAILERS = 0x80


class Frames(ABC):
    """Gives the events of one answer to ``heard`` as its bytes arrive."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self._rest = b""

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Read the next bytes of the body."""

    def event(self, text: bytes) -> None:
        """One event in JSON. An event of another server has no stamp, and its text counts as a token."""
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict) or "seq" not in found or "type" not in found:
            self._foreign(text, found)
            return
        self.heard.turn_id = found.get("turn_id", self.heard.turn_id)
        self.heard.session_id = found.get("session_id", self.heard.session_id)
        at = found.get("at")
        self.heard.add(found["type"], found["seq"], at / 1000 if at else None)

    def _foreign(self, text: bytes, found: object) -> None:
        if text.strip() == b"[DONE]" or (isinstance(found, dict) and found.get("done") is True):
            self.heard.finish("whole")
        elif not (isinstance(found, dict) and {"error", "code"} & found.keys() and "choices" not in found):
            self.heard.add("chunk", len(self.heard.events) + 1, None)


class Lines(Frames):
    """NDJSON: an event a line; a blank line is a heartbeat."""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                self.event(line)
            else:
                self.heard.heartbeats.append(self.heard.last_s)


class ServerSentEvents(Frames):
    """``text/event-stream`` (WHATWG HTML, section 9.2); a comment is a heartbeat."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(heard)
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data.replace(b"\r\n", b"\n")).split(b"\n")
        for line in lines:
            if not line and self._data:
                self.event(b"\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b":"):
                self.heard.heartbeats.append(self.heard.last_s)


class Whole(Frames):
    """A whole reply in JSON: it has no events. The answer is whole when its last byte is there."""

    def feed(self, data: bytes) -> None:
        self.heard.keep(data)


class Messages(Frames):
    """gRPC's length-prefixed messages, each a ``chat.Event``."""

    def feed(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 5:
            size = 5 + int.from_bytes(self._rest[1:5])
            if len(self._rest) < size:
                return
            flags, message, self._rest = self._rest[0], self._rest[5:size], self._rest[size:]
            if flags & _TRAILERS:
                self._take_trailers(message)
            else:
                self.message(message)

    def _take_trailers(self, data: bytes) -> None:
        """gRPC-Web's last message: the trailers as header lines, because HTTP/1.1 gives a page none."""
        for line in data.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            self.heard.headers[name.strip().lower()] = value.strip()
        self.heard.took_rpc_status()

    def message(self, data: bytes) -> None:
        """One message."""
        event = pb.Event.FromString(data)
        kind = event.WhichOneof("body") or ""
        self.heard.turn_id = event.turn_id or self.heard.turn_id
        if kind == "turn_started":
            self.heard.session_id = event.turn_started.session_id
        if kind == "heartbeat":
            self.heard.heartbeats.append(self.heard.last_s)
        else:
            self.heard.add(kind, event.seq, event.at / 1000)


class Answer(Messages):
    """The one message of a unary call, kept as it is."""

    def message(self, data: bytes) -> None:
        self.heard.keep(data)


class ForeignMessages(Messages):
    """The messages of another service: each counts as a token without a stamp."""

    def message(self, data: bytes) -> None:
        self.heard.add("chunk", len(self.heard.events) + 1, None)
