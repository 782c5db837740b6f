"""Steps of HTTP/1.1 (RFC 9112), read by h11; after 101 the connection is a WebSocket (RFC 6455)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import h11

from compare.lines.capture import CapturedBytes, Direction
from compare.lines.steps.step import Step, StepKind
from compare.lines.steps.websocket import FrameReader

_STREAMS = ("application/x-ndjson", "text/event-stream")


class Http1Reader:
    """The requests and responses of one connection.

    h11 parses each direction in an endpoint of its own. What one endpoint receives is told to the other endpoint as sent, so that
    both know the state of the exchange.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._endpoints = {"up": h11.Connection(h11.SERVER), "down": h11.Connection(h11.CLIENT)}
        self._received = {"up": 0, "down": 0}
        self._parsed = {"up": 0, "down": 0}
        self._frames: dict[str, FrameReader] = {}
        self._stream = 0
        self._heads: dict[str, h11.Request | h11.Response] = {}
        self._bodies = {"up": b"", "down": b""}
        self._sizes = {"up": 0, "down": 0}

    def read(self, piece: CapturedBytes) -> Iterator[Step]:
        """The steps that this piece completes."""
        direction = piece.direction
        if self._frames:
            yield from self._frames[direction].read(piece.at, piece.data)
            return
        endpoint = self._endpoints[direction]
        endpoint.receive_data(piece.data)
        self._received[direction] += len(piece.data)
        found: list[Step] = []
        while (event := endpoint.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            found += self._steps(piece.at, direction, event)
        self._count(direction)
        if found and not self._bodies[direction]:
            # h11 reports no event for the line end behind an HTTP chunk, so its bytes are added to the step of the chunk.
            found[-1] = replace(found[-1], size=found[-1].size + self._sizes[direction])
            self._sizes[direction] = 0
        yield from found
        if self._frames:
            rest, _ = endpoint.trailing_data
            yield from self._frames[direction].read(piece.at, rest)
        elif all(end.our_state is h11.DONE and end.their_state is h11.DONE for end in self._endpoints.values()):
            self._stream += 1
            for end in self._endpoints.values():
                end.start_next_cycle()

    def _steps(self, at: float, direction: Direction, event: Any) -> Iterator[Step]:
        other = self._endpoints["down" if direction == "up" else "up"]
        self._count(direction)
        if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage):
            other.send(event)
        if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            self._frames = {"up": FrameReader(self._number, "up"), "down": FrameReader(self._number, "down")}
            yield self._step(at, direction, "response", "101 Switching Protocols", headers=_pairs(event.headers))
        elif isinstance(event, h11.Request | h11.Response):
            self._heads[direction], self._bodies[direction] = event, b""
            if _is_stream(event) or (isinstance(event, h11.Request) and _upgrades(event)):
                yield self._message(at, direction)
        elif isinstance(event, h11.Data):
            self._bodies[direction] += bytes(event.data)
            if _is_stream(self._heads[direction]):
                yield from self._events(at, direction)
        elif isinstance(event, h11.EndOfMessage) and not _upgrades(self._heads[direction]):
            if _is_stream(self._heads[direction]):
                yield self._step(at, direction, "end", "end of body")
            else:
                yield self._message(at, direction)

    def _count(self, direction: Direction) -> None:
        """Add the bytes that h11 has parsed since the last call to the size of the next step."""
        parsed = self._received[direction] - len(self._endpoints[direction].trailing_data[0])
        self._sizes[direction] += parsed - self._parsed[direction]
        self._parsed[direction] = parsed

    def _message(self, at: float, direction: Direction) -> Step:
        """A head, and its body when the body is not a stream."""
        head, body = self._heads[direction], self._bodies[direction]
        if isinstance(head, h11.Request):
            kind: StepKind = "request"
            name = f"{head.method.decode()} {head.target.decode()}"
        else:
            kind, name = "response", f"{head.status_code} {head.reason.decode()}"
        return self._step(at, direction, kind, name, headers=_pairs(head.headers), payload=_json(body), raw=body)

    def _events(self, at: float, direction: Direction) -> Iterator[Step]:
        sse = _media_type(self._heads[direction]) == "text/event-stream"
        border = b"\n\n" if sse else b"\n"
        *items, self._bodies[direction] = self._bodies[direction].split(border)
        framing = self._sizes[direction] - sum(len(item) + len(border) for item in items) - len(self._bodies[direction])
        for item in items:
            # The bytes of the HTTP chunk around several events are counted with the first event.
            self._sizes[direction], framing = len(item) + len(border) + framing, 0
            name, payload = _sse_event(item) if sse else _ndjson_event(item)
            kind: StepKind = "event" if payload is not None else "heartbeat"
            yield self._step(at, direction, kind, name, payload=payload, raw=item + border)
        self._sizes[direction] = len(self._bodies[direction]) + framing

    def _step(self, at: float, direction: Direction, kind: StepKind, name: str, **more: Any) -> Step:
        size, self._sizes[direction] = self._sizes[direction], 0
        return Step(
            at=at,
            connection=self._number,
            stream=self._stream,
            direction=direction,
            kind=kind,
            name=name,
            size=size,
            **more,
        )


def _pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode("latin-1")) for name, value in headers.raw_items())


def _media_type(head: h11.Request | h11.Response) -> str:
    given = dict(head.headers).get(b"content-type", b"")
    return given.partition(b";")[0].decode()


def _is_stream(head: h11.Request | h11.Response) -> bool:
    return _media_type(head) in _STREAMS


def _upgrades(head: h11.Request | h11.Response) -> bool:
    return b"upgrade" in dict(head.headers)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _ndjson_event(line: bytes) -> tuple[str, Any]:
    if not line:
        return "blank line", None
    event = json.loads(line)
    return event["type"], event


def _sse_event(block: bytes) -> tuple[str, Any]:
    """The fields of one event (WHATWG HTML, section 9.2.6), for the forms that the chat server sends."""
    fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n") if not line.startswith(":"))
    if "data" not in fields:
        return ("retry" if "retry" in fields else "comment"), None
    return fields.get("event", "message"), json.loads(fields["data"])
