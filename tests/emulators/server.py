"""HTTP/1.1 (RFC 9112) by hand, as far as the SDKs use it: keep-alive, chunked answers, a watch for the client's end."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

WRONG_KEY = "wrong-key"
# In every error body, with the caller's key: neither may ever reach a client or a log.
PROVIDER_TEXT = "PROVIDER-TEXT"

_SCENARIO = re.compile(r"emulate:([a-z]+(?:-[a-z]+)*)(?:-(\d+))?")
_ABANDONED_S = 60


class Gone(Exception):
    """The client closed its connection."""


@dataclass(slots=True)
class Seen:
    """One request and its outcome; times in Unix epoch milliseconds. ``frames`` counts the frames that were sent."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float
    scenario: str = "plain"
    number: int = 0
    status: int | None = None
    frames: int = 0
    ended_at: float | None = None
    ended_by: str | None = None


@dataclass(slots=True)
class Exchange:
    """A request, and the way to answer it."""

    seen: Seen
    again: int
    _emulator: Emulator
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _leaving: asyncio.Task[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._leaving = asyncio.create_task(self._watch())

    async def _watch(self) -> bytes:
        """Wait until the client closes (an empty result). The next request cannot come before this answer's end."""
        try:
            ahead = await self._reader.read(1)
        except ConnectionError:
            ahead = b""
        if not ahead:
            self._end("client")
        return ahead

    def _end(self, by: str) -> None:
        if self.seen.ended_by is None:
            self.seen.ended_at, self.seen.ended_by = time.time() * 1000, by
            self._emulator.changed()

    @property
    def script(self) -> list[bytes]:
        """What the scenario ``scripted`` sends."""
        return self._emulator.script

    async def pause(self, seconds: float) -> None:
        """Wait. Raises Gone as soon as the client closes."""
        await asyncio.wait({self._leaving}, timeout=seconds)
        if self._leaving.done():
            raise Gone

    async def silence(self) -> None:
        """Send nothing more until the client closes."""
        await self.pause(_ABANDONED_S)

    async def start(self, media_type: str, status: int = 200) -> None:
        """The head of a chunked answer."""
        self.seen.status = status
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        await self._write(head.encode())

    async def send(self, frame: bytes) -> None:
        """One frame of a chunked answer."""
        await self._write(b"%x\r\n%s\r\n" % (len(frame), frame))
        self.seen.frames += 1
        self._emulator.changed()

    async def finish(self) -> None:
        """The end of a chunked answer."""
        await self._write(b"0\r\n\r\n")

    async def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """A whole answer in JSON."""
        self.seen.status = status
        data = json.dumps(body).encode()
        lines = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self._write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + data)

    async def file(self, data: bytes, media_type: str) -> None:
        """A whole answer of any bytes."""
        self.seen.status = 200
        head = f"HTTP/1.1 200 X\r\ncontent-type: {media_type}\r\ncontent-length: {len(data)}\r\n\r\n"
        await self._write(head.encode() + data)

    def cut(self) -> None:
        """Break the connection, as a dying proxy would."""
        self._end("emulator")
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        if self._leaving.done():
            raise Gone
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            self._end("client")
            raise Gone from None

    async def close(self) -> bool:
        """Called after the answer: whether the connection may carry another request."""
        self._leaving.cancel()
        with suppress(asyncio.CancelledError):
            await self._leaving
        alive = self.seen.ended_by is None
        self._end("answered")
        return alive and not self._writer.transport.is_closing()


class Emulator:
    """The server. ``seen`` are the requests in order, ``base_url`` is without a path, ``script`` is what ``scripted`` sends."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self.seen: list[Seen] = []
        self.script: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()

    @property
    def base_url(self) -> str:
        """For ``GOOGLE_GEMINI_BASE_URL``."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        """For ``OPENAI_BASE_URL``."""
        return f"{self.base_url}/v1"

    def changed(self) -> None:
        """Wake the tests that wait in ``until``."""
        self._change.set()
        self._change = asyncio.Event()

    async def until(self, true: Callable[[], bool], timeout_s: float = 30) -> None:
        """Wait until ``true()`` holds; ``seen`` may have changed meanwhile. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not true():
                await self._change.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=2048, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (Gone, ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:  # the emulator is closing
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(raw) if raw else None
        seen = Seen(path, headers, body, time.time() * 1000)
        route = _route(method, path)
        if route is not None:
            seen.scenario, seen.number = _scenario(body)
            # The same question may come again with fewer parameters.
            again = sum(1 for other in self.seen if (other.path, _question(other.body)) == (path, _question(body)))
            self.seen.append(seen)
            self.changed()
        else:
            again = 0
        exchange = Exchange(seen, again, self, reader, writer)
        try:
            if route is not None:
                await route(exchange)
            elif path == "/_requests":
                await exchange.answer(200, [asdict(one) for one in self.seen])
            elif path == "/_reset":
                self.seen.clear()
                await exchange.answer(200, {})
            else:
                await exchange.answer(404, {"error": {"message": f"no such path {PROVIDER_TEXT}"}})
        finally:
            alive = await exchange.close()
        return alive


def _route(method: str, path: str) -> Callable[[Exchange], Awaitable[None]] | None:
    from tests.emulators import chat, images

    if method == "GET" and re.match("/(pictures/|redirect-|escape)", path):
        return images.file
    if method != "POST":
        return None
    if re.match(r"/v1(beta)?/(models|tunedModels)/.*:streamGenerateContent", path):
        return chat.gemini
    routes = {"chat/completions": chat.openai, "images/generations": images.openai}
    address = re.fullmatch(r"(?:/api)?/v1/(.+)", path)
    return routes.get(address[1]) if address else None


def _question(body: Any) -> str:
    """The last message or the prompt of a request."""
    body = body or {}
    if "contents" in body:
        return str(body["contents"][-1]["parts"][0]["text"])
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    return str(body.get("prompt", ""))


def _scenario(body: Any) -> tuple[str, int]:
    """The scenario that a question names."""
    match = _SCENARIO.search(_question(body))
    return (match[1], int(match[2] or 0)) if match else ("plain", 0)
