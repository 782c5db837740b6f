"""One WebSocket connection (RFC 6455) as messages: JSON in text frames, and a binary frame after each piece of a picture.

``open_connection`` does the handshake on ``/ws`` (section 4.1). ``close`` is the closing handshake (section 7.1.2), ``abort`` drops
the TCP connection.
"""

from __future__ import annotations

import functools
import operator
import ssl
from typing import Any, get_args

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from shared.client.events import UnknownEvent
from shared.client.protocol import ClientCounts
from shared.duplex_messages import ClientMessage, ServerMessage
from shared.errors import ERRORS, ChatError, ConnectionLost, ServerAbsent
from shared.events import EVENT_TYPES, AnyEvent, Event, ImageChunk, to_json

SUBPROTOCOL = Subprotocol("genai.chat.v1")
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CONNECT_S = 5.0
CLOSE_S = 1.0
_CODE_OF_CLOSE = {row.ws_close: row.code for row in ERRORS.values() if row.ws_close is not None}


class ImageChunkHead(Event, frozen=True, kw_only=True, tag="image_chunk"):
    """The text half of an ``image_chunk``. The next data message is binary and holds so many ``bytes``."""

    image_id: str
    offset: int
    bytes: int


class _Other(msgspec.Struct, frozen=True):
    """A message of a type that this client does not know. With a ``seq`` it is an event."""

    type: str
    turn_id: str | None = None
    seq: int | None = None


Received = AnyEvent | UnknownEvent | ServerMessage
_EVENTS = functools.reduce(operator.or_, (ImageChunkHead, *(kind for kind in EVENT_TYPES if kind is not ImageChunk)))
_KNOWN = {str(kind.__struct_config__.tag) for kind in (*EVENT_TYPES, *get_args(ServerMessage))}
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_EVENTS | ServerMessage)


class _Handshake(connect):
    """The library's handshake without following redirects: a redirect here is a login page, never the chat."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_connection(
    address: str, key: str | None, silence_s: float, counts: ClientCounts, tls: ssl.SSLContext | None
) -> Connection:
    """Connect to ``http://HOST:PORT``, or with ``tls`` to ``https://HOST:PORT``, and do the handshake.

    Raises ServerAbsent, ConnectionLost, and the library's InvalidStatus with the HTTP answer when the server refuses.
    """
    try:
        socket = await _Handshake(
            f"ws{address.removeprefix('http')}/ws",
            subprotocols=[SUBPROTOCOL],
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            # permessage-deflate costs CPU and 40 KiB a connection, and a token is too short to gain from it.
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=CONNECT_S,
            close_timeout=CLOSE_S,
            # A ping after half of the time, and its pong within the other half: a half-open connection is lost after silence_s.
            ping_interval=silence_s / 2,
            ping_timeout=silence_s / 2,
            proxy=None,
            ssl=tls,
        )
    except OSError as error:
        raise ServerAbsent("nothing answers there") from error
    except InvalidStatus:
        raise
    except InvalidHandshake as error:
        raise ConnectionLost("the handshake broke off") from error
    counts.connections += 1
    return Connection(socket, counts)


class Connection:
    """An open connection. ``send`` and ``receive`` may raise ConnectionLost."""

    def __init__(self, socket: ClientConnection, counts: ClientCounts) -> None:
        self._socket = socket
        self._counts = counts

    async def send(self, message: ClientMessage) -> None:
        """Write one message as a text frame."""
        try:
            await self._socket.send(to_json(message), text=True)
        except ConnectionClosed as error:
            raise ConnectionLost("the connection broke") from error

    async def receive(self) -> Received | None:
        """The next message; None for a message of a type that this client does not know.

        Raises ChatError when the server closed the connection with one of the error table's close codes.
        """
        try:
            data = await self._frame()
            try:
                message = _decoder.decode(data)
            except msgspec.ValidationError:
                return _unknown(msgspec.json.decode(data, type=_Other))
            return await self._image_chunk(message) if isinstance(message, ImageChunkHead) else message
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            if code in _CODE_OF_CLOSE:
                raise ChatError(_CODE_OF_CLOSE[code]) from error
            raise ConnectionLost(
                f"the server closed the connection, with code {code}" if code else "the connection broke"
            ) from error
        except msgspec.MsgspecError as error:
            self.abort()
            raise ConnectionLost("the server sent a message that is malformed") from error

    async def _frame(self) -> bytes:
        data = await self._socket.recv(decode=False)
        self._counts.bytes_received += len(data)
        return data

    async def _image_chunk(self, head: ImageChunkHead) -> ImageChunk:
        """The text frame and the binary frame after it as one event."""
        data = await self._frame()
        fields = msgspec.structs.asdict(head)
        if len(data) != fields.pop("bytes"):
            raise ConnectionLost("a piece of a picture does not have its length")
        return ImageChunk(**fields, data=data)

    async def close(self) -> None:
        """Do the closing handshake; after CLOSE_S without an answer drop the connection."""
        await self._socket.close()

    def abort(self) -> None:
        """Drop the TCP connection, as a broken cable would."""
        self._socket.transport.abort()


def _unknown(message: _Other) -> UnknownEvent | None:
    """Raises msgspec.ValidationError for a malformed message of a type that is known."""
    if message.type in _KNOWN:
        raise msgspec.ValidationError(f"a malformed {message.type}")
    if message.turn_id is None or message.seq is None:
        return None
    return UnknownEvent(type=message.type, turn_id=message.turn_id, seq=message.seq)
