"""The WebSocket (RFC 6455) as the probe speaks it: the handshake's answer and the peer's pings can be seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from compare.probing.frames import Lines
from compare.probing.heard import Heard, now
from compare.probing.stream import Stop, Stream
from compare.probing.target import Target, connect, hang_up

SUBPROTOCOL = "genai.chat.v1"
PATH = "/ws"
_READ_BYTES = 64 * 1024
_HANDSHAKE_S = 5.0


class Socket(Stream):
    """One connection and the events that come on it. A ping is a heartbeat.

    ``heard.status`` is the handshake's: 101, or the status of the hop that refused it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ClientProtocol) -> None:
        self._reader, self._writer, self._protocol = reader, writer, protocol
        self.heard = Heard(now())
        self._frames = Lines(self.heard)
        self.subprotocol: str | None = None

    @classmethod
    async def open(cls, target: Target, path: str = PATH) -> Self:
        """Connect and shake hands; a refusal is in ``heard``. Raises ServerAbsent."""
        uri = WebSocketURI(target.trust is not None, target.host, target.port, path, "")
        protocol = ClientProtocol(uri, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None)
        socket = cls(*await connect(target), protocol)
        request = protocol.connect()
        request.headers.update(target.authorization)
        protocol.send_request(request)
        socket._flush()
        await socket.read(_HANDSHAKE_S, lambda heard: heard.status is not None)
        if socket.heard.status is None:
            socket.heard.finish("cut", "no answer to the handshake")
        return socket

    def send(self, message: dict[str, Any]) -> None:
        """Send one message as JSON."""
        self.heard.sent_s = now()
        self._protocol.send_text(json.dumps(message).encode())
        self._flush()

    async def read(self, seconds: float, stop: Stop | None = None) -> Heard:
        until = now() + seconds
        while self.heard.end == "open" and not (stop and stop(self.heard)):
            try:
                async with asyncio.timeout_at(until):
                    data = await self._reader.read(_READ_BYTES)
            except TimeoutError:
                break
            except OSError as error:
                self.heard.finish("cut", type(error).__name__)
                break
            if not data:
                self._end("closed without a close frame")
                break
            self.heard.took_piece(len(data))
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                self._apply(event)
            self._flush()
        return self.heard

    def _end(self, why: str) -> None:
        self._protocol.receive_eof()
        for event in self._protocol.events_received():
            self._apply(event)
        self.heard.finish("cut", why)

    def _apply(self, event: Frame | Response | Any) -> None:
        if isinstance(event, Response):
            self.heard.status = event.status_code
            self.heard.headers = {name.lower(): value for name, value in event.headers.raw_items()}
            self.heard.keep(bytes(event.body or b""))
            self.subprotocol = self._protocol.subprotocol
            if event.status_code != 101 or isinstance(self._protocol.handshake_exc, InvalidHandshake):
                self.heard.finish("refused", str(self._protocol.handshake_exc or ""))
        elif event.opcode is Opcode.TEXT:
            text = bytes(event.data)
            message = json.loads(text)
            if "seq" in message:
                self._frames.event(text)
            elif message.get("type") == "error":
                self.heard.finish("refused", str(message.get("code")))
        elif event.opcode is Opcode.PING:
            self.heard.heartbeats.append(self.heard.last_s)
        elif event.opcode is Opcode.CLOSE:
            self.heard.finish("cut", f"close code {int.from_bytes(event.data[:2]) if event.data else 1005}")

    def _flush(self) -> None:
        if not self._writer.is_closing():
            self._writer.writelines(data for data in self._protocol.data_to_send() if data)

    async def leave(self) -> None:
        await hang_up(self._writer)
