"""A client of the chat over a WebSocket (RFC 6455): one held connection, several turns at once, each found by its ``turn_id``.

The protocol has no resume of its own: a lost connection is opened again, and ``resume`` names the turn and the cursor. What is no
conversation (lists, messages, statistics) goes over the HTTP routes of the same server.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from protocols import TRANSPORTS
from protocols.websocket.connection import HeldClient, Wire
from shared.client import cli
from shared.client.http import problem_of
from shared.client.protocol import ClientCounts, ServerAbsent
from shared.duplex_messages import ClientMessage, ServerMessage
from shared.errors import ERRORS, ChatError, ConnectionLost
from shared.events import EVENT_TYPES, AnyEvent, Event, ImageChunk, to_json

SUBPROTOCOL = Subprotocol("genai.chat.v1")
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CONNECT_S = 5.0
CLOSE_S = 1.0
_REFUSALS = {row.ws_close: row.code for row in ERRORS.values() if row.ws_close is not None}


class ImageChunkHead(Event, frozen=True, kw_only=True, tag="image_chunk"):
    """The text half of an ``image_chunk``: the next frame is binary and holds so many bytes."""

    image_id: str
    offset: int
    bytes: int


_EVENTS = functools.reduce(operator.or_, (ImageChunkHead, *(kind for kind in EVENT_TYPES if kind is not ImageChunk)))
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_EVENTS | ServerMessage)


class Client(HeldClient):
    """See ChatClient."""

    transport = "websocket"

    async def _open_wire(self) -> Wire:
        try:
            connection = await connect(
                f"ws{self.address.removeprefix('http')}/ws",
                subprotocols=[SUBPROTOCOL],
                additional_headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
                # permessage-deflate costs CPU and 40 KiB a connection, and a token is too short to gain from it.
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=CONNECT_S,
                close_timeout=CLOSE_S,
                # Together the silence after which a half-open connection is given up.
                ping_interval=self._silence_s / 2,
                ping_timeout=self._silence_s / 2,
                proxy=None,
            )
        except InvalidStatus as error:
            raise problem_of(bytes(error.response.body or b""), error.response.status_code) from error
        except InvalidHandshake as error:
            raise ConnectionLost("the handshake broke off") from error
        except OSError as error:
            raise ServerAbsent("nothing answers there") from error
        return _Socket(connection, self.counts)


class _Socket:
    """The connection as messages; see Wire."""

    def __init__(self, connection: ClientConnection, counts: ClientCounts) -> None:
        self._connection = connection
        self._counts = counts

    async def send(self, message: ClientMessage) -> None:
        try:
            await self._connection.send(to_json(message), text=True)
        except ConnectionClosed as error:
            raise ConnectionLost("the connection broke") from error

    async def receive(self) -> AnyEvent | ServerMessage:
        try:
            item = _decoder.decode(await self._frame())
            return await self._whole(item) if isinstance(item, ImageChunkHead) else item
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            if code in _REFUSALS:
                raise ChatError(_REFUSALS[code]) from error
            raise ConnectionLost(f"the connection broke (close code {code or 'none'})") from error
        except msgspec.DecodeError as error:
            self.abort()
            raise ConnectionLost("the server sent something that is not ours") from error

    async def _frame(self) -> bytes:
        data = await self._connection.recv(decode=False)
        self._counts.bytes_received += len(data)
        return data

    async def _whole(self, head: ImageChunkHead) -> ImageChunk:
        """The pair of frames as one event."""
        data = await self._frame()
        given = msgspec.structs.asdict(head)
        if len(data) != given.pop("bytes"):
            raise ConnectionLost("a piece of a picture is not whole")
        return ImageChunk(**given, data=data)

    async def close(self) -> None:
        await self._connection.close()

    def abort(self) -> None:
        self._connection.transport.abort()


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
