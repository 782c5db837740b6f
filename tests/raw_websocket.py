"""A WebSocket (RFC 6455) on a raw socket, read with wsproto: a library that this project's server and client do not
use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from shared.errors import ConnectionLost

PROTOCOL = "genai.chat.v1"
PATIENCE_S = 10.0

SocketMessage = dict[str, Any]


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A masked frame (RFC 6455, section 5.2) of at most 125 bytes, or of more with the 16-bit length."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    mask = b"\x01\x02\x03\x04"
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([(0x80 if fin else 0) | opcode]) + size + mask + masked


class Addressed(Protocol):
    """Any running server; ``address`` is ``host:port``."""

    @property
    def address(self) -> str: ...


class Raw:
    """A connection of a foreign client; ``received`` are all bytes since the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = b""
        self.subprotocol: str | None = None
        self.status: int | None = None
        self.body = b""
        self.close_code: int | None = None
        self.close_reason: str | None = None
        self._reader = reader
        self._writer = writer
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._partial: str | bytes = b""
        self._messages: list[str | bytes] = []

    async def shake(self, host: str, target: str, offered: tuple[str, ...], headers: dict[str, str]) -> None:
        """Send the handshake and read the head of the answer."""
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.write(self._ws.send(Request(host=host, target=target, subprotocols=list(offered), extra_headers=extra)))
        while self.status is None:
            await self._read()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    def say(self, **message: Any) -> None:
        """Send one message as JSON."""
        self.text(json.dumps(message))

    def text(self, text: str) -> None:
        """Send a text frame."""
        self.write(self._ws.send(TextMessage(text)))

    def binary(self, data: bytes) -> None:
        """Send a binary frame."""
        self.write(self._ws.send(BytesMessage(data)))

    async def frame(self) -> str | bytes:
        """The next data message, whole. Raises ConnectionLost with the close code when there is none."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._messages:
                await self._read()
        return self._messages.pop(0)

    async def hear(self, *types: str) -> SocketMessage:
        """The next message of one of these types (or the next at all); an ``image_chunk`` has its ``data``."""
        while True:
            frame = await self.frame()
            assert isinstance(frame, str), "a binary frame that no text frame announced"
            said: SocketMessage = json.loads(frame)
            if said["type"] == "image_chunk":
                said["data"] = await self.frame()
                assert isinstance(said["data"], bytes)
                assert len(said["data"]) == said["bytes"]
            if not types or said["type"] in types:
                return said

    async def turn(self, turn_id: str | None = None) -> list[SocketMessage]:
        """The events of one turn to its end; messages of other turns are skipped."""
        events: list[SocketMessage] = []
        while not events or not events[-1]["type"].startswith("turn_") or len(events) == 1:
            said = await self.hear()
            if "seq" in said and said["turn_id"] == (turn_id or said["turn_id"]):
                turn_id = said["turn_id"]
                events.append(said)
        return events

    async def closed(self) -> int | None:
        """The code of the server's close frame; None when there was none."""
        with contextlib.suppress(ConnectionLost):
            while True:
                await self.frame()
        return self.close_code

    async def _read(self) -> None:
        data = b"" if self.close_code is not None else await self._reader.read(65536)
        if not data:
            raise ConnectionLost(f"closed: {self.close_code}")
        if self.status is not None:
            self.received += data
        self._ws.receive_data(data)
        for event in self._ws.events():
            match event:
                case AcceptConnection():
                    self.status, self.subprotocol = 101, event.subprotocol
                    assert not event.extensions
                case RejectConnection():
                    self.status = event.status_code
                case RejectData():
                    self.body += event.data
                case Ping():
                    self.write(self._ws.send(event.response()))
                case CloseConnection():
                    self.close_code, self.close_reason = event.code, event.reason
                    with contextlib.suppress(LocalProtocolError):
                        self.write(self._ws.send(event.response()))
                case Message():
                    self._partial = event.data if not self._partial else self._partial + event.data
                    if event.message_finished:
                        self._messages.append(self._partial)
                        self._partial = b""

    def abort(self) -> None:
        """Break the connection without a close frame."""
        self._writer.transport.abort()


@asynccontextmanager
async def raw(
    server: Addressed,
    *,
    offered: tuple[str, ...] = (PROTOCOL,),
    headers: dict[str, str] | None = None,
    target: str = "/ws",
    connected: bool = True,
) -> AsyncIterator[Raw]:
    """A raw connection that has read its ``connected``, unless ``connected`` is False."""
    host, _, port = server.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        connection = Raw(reader, writer)
        await connection.shake(server.address, target, offered, headers or {})
        if connected:
            assert (await connection.hear())["type"] == "connected"
        yield connection
    finally:
        writer.transport.abort()


async def stats(server: Addressed, **headers: str) -> SocketMessage:
    """The statistics of a server."""
    async with httpx.AsyncClient(headers=headers) as http:
        answer: SocketMessage = (await http.get(f"http://{server.address}/stats")).json()
        return answer


def checked_text(events: list[SocketMessage]) -> str:
    """The text of a turn, after a check of its events: seq without a gap, and the sha256."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    text = "".join(event["text"] for event in events if event["type"] == "chunk")
    if events[0]["kind"] == "chat":
        assert events[-1]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    return text


async def until_seq(connection: Raw, seq: int) -> None:
    """Read messages until the event ``seq`` of a turn."""
    while (await connection.hear()).get("seq", 0) < seq:
        pass
