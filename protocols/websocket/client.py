"""A client of the chat over a WebSocket (RFC 6455): one held connection, several turns at once, each recognised by its ``turn_id``.

    GET /ws, Sec-WebSocket-Protocol: genai.chat.v1          101
                                                            {"type": "connected", "connection_id": …, "server_info": …}
    {"type": "chat", "message": "Hi", "request_id": KEY}    {"type": "turn_started", "request_id": KEY, "turn_id": …, "seq": 1, …}
                                                            {"type": "chunk", "turn_id": …, "seq": 2, "text": "Hello", …}
                                                            {"type": "turn_completed", "turn_id": …, "seq": 3, …}
    {"type": "resume", "turn_id": …, "after": 2}            {"type": "resumed", …}, then the events after seq 2
                                                            {"type": "resumed", "lost": true, …}, then all events: the store has
                                                            lost what this client was sent
    {"type": "cancel", "turn_id": …}                        {"type": "resumed", "status": "cancelled", …}

The protocol has no resume of its own: the client opens a lost connection again and sends ``resume`` with its cursor. Lists,
messages and statistics go over the HTTP routes of the same server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from websockets.exceptions import InvalidStatus

from protocols import TRANSPORTS
from protocols.websocket.connection import Connection, open_connection
from protocols.websocket.conversation import Conversation
from shared.client import cli
from shared.client.http import HttpClient
from shared.client.protocol import Ask
from shared.client.transport import TurnItem, Watched
from shared.duplex_messages import (
    Cancel,
    Chat,
    CreateSession,
    Image,
    Ping,
    Pong,
    Resumed,
    SessionCreated,
    TypingStart,
    TypingStop,
)
from shared.errors import ConnectionLost, NotOurServer
from shared.events import TERMINAL
from shared.reply import Snapshot
from shared.session import Session

T = TypeVar("T", bound=Watched)


class Client(HttpClient):
    """See ChatClient."""

    transport = "websocket"
    holds_connection = True

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._conversation: Conversation | None = None
        self._opening = asyncio.Lock()

    async def connect(self) -> None:
        await self._connected()

    async def _connected(self) -> Conversation:
        """The conversation on the held connection, which is opened when there is none or it was lost."""
        async with self._opening:
            if self._conversation is None or self._conversation.lost:
                self._conversation = Conversation(await self._dial())
                await self._conversation.connected()
                self._answered = True
            return self._conversation

    async def _dial(self) -> Connection:
        try:
            return await open_connection(self.address, self._key, self._silence_s, self.counts, self._tls)
        except InvalidStatus as error:
            answer = error.response
            raise await self._refusal(answer.status_code, answer.headers, bytes(answer.body or b"")) from error
        except ConnectionLost as error:
            if self._may_be_stranger(error) and (stranger := await self._stranger()):
                raise NotOurServer(stranger) from error
            raise

    def stream_chat(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        message = Chat(
            message=ask.text,
            session_id=ask.session_id,
            model_id=ask.model_id,
            request_id=ask.request_id,
            new_session=ask.session_id is None,
        )
        return self._reading(lambda conversation: conversation.turn(message))

    def stream_image(self, ask: Ask) -> AsyncGenerator[TurnItem, None]:
        message = Image(prompt=ask.text, size=ask.size, session_id=ask.session_id, request_id=ask.request_id)
        return self._reading(lambda conversation: conversation.turn(message))

    def stream_turn(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[TurnItem, None]:
        return self._reading(lambda conversation: conversation.resume(turn_id, after, epoch))

    def watch(self, session_id: str) -> AsyncGenerator[Watched, None]:
        return self._reading(lambda conversation: conversation.watch(session_id))

    async def _reading(self, read: Callable[[Conversation], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """Read on the connection. A reader that leaves before the end closes the connection, unless others use it.

        The protocol has no message for leaving a turn, and a server sends its events as long as the connection is open.
        """
        conversation = await self._connected()
        ended = False
        try:
            async with aclosing(read(conversation)) as items:
                async for item in items:
                    ended = isinstance(item, TERMINAL)
                    yield item
        except (GeneratorExit, asyncio.CancelledError):
            if not ended and conversation.idle and conversation is self._conversation:
                await self._hang_up()
            raise

    async def create_session(self, model_id: str | None = None) -> Session:
        conversation = await self._connected()
        if conversation.watched:
            # ``create_session`` joins the new session, and this connection has to stay in the session that is watched.
            return await super().create_session(model_id)
        made = await conversation.command(CreateSession(model_id=model_id), SessionCreated)
        conversation.joined = made.session_id
        return await self.get_session(made.session_id)

    async def cancel(self, turn_id: str) -> Snapshot:
        def has_stopped(answer: Resumed) -> bool:
            return answer.turn_id == turn_id and answer.status != "running" and not answer.lost

        conversation = await self._connected()
        await conversation.command(Cancel(turn_id=turn_id), Resumed, has_stopped)
        return await self.get_turn(turn_id)

    async def typing(self, session_id: str, typing: bool) -> None:
        conversation = await self._connected()
        await conversation.join(session_id)
        await conversation.connection.send(TypingStart() if typing else TypingStop())

    async def ping(self) -> float:
        conversation = await self._connected()
        begun = time.perf_counter()
        await conversation.command(Ping(), Pong)
        return (time.perf_counter() - begun) * 1000

    async def cut(self) -> None:
        if self._conversation is not None:
            self._conversation.connection.abort()
        await super().cut()

    async def aclose(self) -> None:
        await self._hang_up()
        await super().aclose()

    async def _hang_up(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            await conversation.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or send one message and exit."""
    return cli.main(Client, argv, TRANSPORTS)


if __name__ == "__main__":
    raise SystemExit(main())
