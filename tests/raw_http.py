"""HTTP/1.1 on a raw socket, read by h11: a client that shares no code with the servers or with this project's clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.conftest import Servers

JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    """One answer: its head, its body in pieces as they arrived (each with its time), and its raw bytes."""

    status: int
    headers: dict[str, str]
    http_version: str
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line:
    """A connection to a server; h11 writes the requests and reads the answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self._raw = bytearray()

    async def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """Send a request and read the whole answer."""
        answer = await self.begin(method, target, headers, body)
        async for _ in self.pieces(answer):
            pass
        self._http.start_next_cycle()
        return answer

    async def begin(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        """Send a request and read the head of the answer."""
        data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body or b""
        given = {"host": self._host, **(JSON if body is not None else {}), **(headers or {})}
        if method in ("POST", "DELETE"):
            given["content-length"] = str(len(data))
        self._raw.clear()
        for event in (
            h11.Request(method=method, target=target, headers=list(given.items())),
            h11.Data(data=data),
            h11.EndOfMessage(),
        ):
            self.writer.write(self._http.send(event) or b"")
        head = await self._next()
        assert isinstance(head, h11.Response)
        names = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, names, head.http_version.decode(), raw=self._raw)

    async def pieces(self, answer: Answer) -> AsyncIterator[bytes]:
        """The body as it arrives; each piece is noted in the answer."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            answer.pieces.append((time.perf_counter(), bytes(event.data)))
            yield bytes(event.data)
        answer.whole = True

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(30):
                data = await self.reader.read(65536)
            self._raw += data
            self._http.receive_data(data)
        return event


@asynccontextmanager
async def line(servers: Servers, word: str) -> AsyncIterator[Line]:
    """A connection to a server."""
    address = servers[word].address
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer, address)
    finally:
        writer.transport.abort()


async def ask(servers: Servers, word: str, method: str, target: str, **given: Any) -> Answer:
    """One request on a connection of its own; ``headers`` and ``body`` as ``Line.ask`` takes them."""
    async with line(servers, word) as connection:
        return await connection.ask(method, target, given.get("headers"), given.get("body"))


def chunks_of(raw: bytes) -> list[bytes]:
    """The chunks of a chunked body (RFC 9112, section 7.1), to its end."""
    rest = raw[raw.index(b"\r\n\r\n") + 4 :]
    chunks: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        if length == 0:
            assert rest == b"\r\n"
            return chunks
        chunks.append(rest[:length])
        rest = rest[length + 2 :]


async def exchange(servers: Servers, word: str, sent: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes on a connection of their own and read to its end; ``half_close`` sends a FIN after them."""
    async with line(servers, word) as connection:
        connection.writer.write(sent)
        if half_close:
            connection.writer.write_eof()
        async with asyncio.timeout(30):
            return await connection.reader.read()


def status_of(raw: bytes) -> int:
    """The status of a raw answer; 0 for none."""
    return int(raw.split(b" ", 2)[1]) if raw else 0


def fields_of(raw: bytes, name: str) -> list[str]:
    """The values of every line of a header in a raw answer."""
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = [line.partition(":") for line in head.split("\r\n")[1:]]
    return [value.strip() for field, _, value in pairs if field.lower() == name]
