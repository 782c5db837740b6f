"""HTTP/1.1 (RFC 9112) as the probe speaks it: the request is written as it is, and each read of the answer is a piece."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Self

import httptools

from compare.probing.frames import Frames, Whole
from compare.probing.heard import Heard, now
from compare.probing.stream import Stop, Stream
from compare.probing.target import Target, connect, hang_up

_READ_BYTES = 64 * 1024
_WAIT_S = 10.0
# A server of HTTP/2 begins with SETTINGS (RFC 9113, section 3.4): a short frame, of type 4.
_SETTINGS = b"\0\0"
Headers = Iterable[tuple[str, str]]


class Http1Stream(Stream):
    """One connection and the answer to its newest request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard = Heard(now())
        self.continued_s: float | None = None

    @classmethod
    async def open(cls, target: Target) -> Self:
        """Connect. Raises ServerAbsent."""
        return cls(*await connect(target))

    def send(
        self,
        target: Target,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        frames: Callable[[Heard], Frames] = Whole,
        *,
        expect: bool = False,
    ) -> None:
        """Send a request. With ``expect`` its body waits for ``send_body``; ``frames`` reads a 200's body."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {target.authority}", "User-Agent: genai-probe"]
        sent = [*target.authorization, *headers]
        if (body or method == "POST") and "Content-Length" not in dict(sent):
            sent.append(("Content-Length", str(len(body))))
        if expect:
            sent.append(("Expect", "100-continue"))
        head += [f"{name}: {value}" for name, value in sent]
        self.heard = Heard(now())
        self._parser = _Parser(self, frames(self.heard))
        self._writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if expect else body))

    async def send_body(self, body: bytes) -> None:
        """Send the body that ``expect`` has held back."""
        self._writer.write(body)
        await self._writer.drain()

    async def read(self, seconds: float, stop: Stop | None = None) -> Heard:
        until = now() + seconds
        while self.heard.end == "open" and not (stop and stop(self.heard)) and await self._read_piece(until):
            pass
        return self.heard

    async def read_trailers(self, seconds: float) -> Heard:
        """Read on after the terminal event until gRPC-Web's trailers are there, the answer has ended, or the time is
        over.
        """
        until = now() + seconds
        while self.heard.rpc_status is None and not self._parser.complete and await self._read_piece(until):
            pass
        return self.heard

    async def _read_piece(self, until_s: float) -> bool:
        """Read once. False when nothing came in time, or the connection has ended."""
        try:
            async with asyncio.timeout_at(until_s):
                data = await self._reader.read(_READ_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            self.heard.finish("cut", type(error).__name__)
            return False
        if not data:
            self._parser.eof()
            return False
        self.heard.took_piece(len(data))
        self._parser.feed(data)
        return True

    async def closed_within(self, seconds: float) -> float | None:
        """Wait on an idle connection: after how many seconds the path closed it; None when it stayed open."""
        begun = now()
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(_READ_BYTES):
                    pass
        except TimeoutError:
            return None
        except OSError:
            pass
        return now() - begun

    async def leave(self) -> None:
        await hang_up(self._writer)


class _Parser:
    """The callbacks of httptools for one answer."""

    def __init__(self, stream: Http1Stream, frames: Frames) -> None:
        self._stream, self._heard, self._frames = stream, stream.heard, frames
        self._parser = httptools.HttpResponseParser(self)
        self._inflate: Any = None
        self._in_head = True
        self.complete = False

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._heard.finish("ended")
        except httptools.HttpParserError as error:
            frames = data.startswith(_SETTINGS) and data[3:4] == b"\x04"
            self._heard.finish("cut", "it answers HTTP/1.1 with HTTP/2 frames" if frames else f"not HTTP: {error}"[:80])

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; several of one name are one list (RFC 9110, section 5.2)."""
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._heard.headers.get(key)
        self._heard.headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 < status < 200:
            return
        if status == 100:
            self._stream.continued_s = now()
            return
        self._in_head = False
        self._heard.status = status
        self._heard.took_rpc_status()
        if self._heard.headers.get("content-encoding") == "gzip":
            self._inflate = zlib.decompressobj(31)

    def on_body(self, data: bytes) -> None:
        if self._inflate is not None:
            data = self._inflate.decompress(data)
        if self._heard.status == 200:
            self._frames.feed(data)
        else:
            self._heard.keep(data)

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self.complete = True
        if self._heard.status != 200 or self._heard.rpc_status:
            self._heard.finish("refused")
        else:
            self._heard.finish("whole" if isinstance(self._frames, Whole) else "ended")

    def eof(self) -> None:
        headers = self._heard.headers
        if self._in_head:
            self._heard.finish("cut", "closed without an answer")
        elif "content-length" in headers or "chunked" in headers.get("transfer-encoding", ""):
            self._heard.finish("cut", "closed in the middle of the answer")
        else:
            self.on_message_complete()


async def fetch(
    target: Target, method: str, path: str, value: Any = None, headers: Headers = (), *, seconds: float = _WAIT_S
) -> Heard:
    """One request on a connection of its own; ``value`` is sent as JSON. An answer that does not come stays ``open``."""
    stream = await Http1Stream.open(target)
    body = b"" if value is None else json.dumps(value).encode()
    kind = () if value is None else (("Content-Type", "application/json"),)
    stream.send(target, method, path, (*kind, *headers), body)
    try:
        return await stream.read(seconds)
    finally:
        await stream.leave()


def as_json(heard: Heard) -> dict[str, Any]:
    """The body of an answer as a JSON object; empty for anything else."""
    try:
        found = json.loads(heard.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
