"""A held connection in both directions: the WebSocket and gRPC's ``Chat`` are this, in two framings.

A client's messages come in one after the other; answers, events of any number of turns, and hints about the joined session go out.
The WebSocket's names stand here; gRPC has the same ones in its ``oneof``.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Self

import msgspec

from shared.errors import ChatError
from shared.events import Status
from shared.logger import short
from shared.service import ChatService, Membership
from shared.session import SessionUpdate
from shared.turn import Reader, Record


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    pass


class Chat(_Message, frozen=True, kw_only=True, tag="chat"):
    """Ask; without ``session_id`` in the joined session, or in a new one that is joined then."""

    message: str
    session_id: str | None = None
    model_id: str | None = None
    request_id: str | None = None


class Image(_Message, frozen=True, kw_only=True, tag="image"):
    """Ask for a picture; outside any session when ``session_id`` is absent."""

    prompt: str
    size: str | None = None
    session_id: str | None = None
    request_id: str | None = None


class CreateSession(_Message, frozen=True, kw_only=True, tag="create_session"):
    """Make a session and join it."""

    model_id: str | None = None


class JoinSession(_Message, frozen=True, kw_only=True, tag="join_session"):
    """Get the events of every turn that starts in the session from now on."""

    session_id: str


class Resume(_Message, frozen=True, kw_only=True, tag="resume"):
    """Read a turn from a cursor; replaces its live subscription on this connection."""

    turn_id: str
    after: int


class Cancel(_Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop a turn; answered with ``resumed``, which tells its state, when it has stopped."""

    turn_id: str


class TypingStart(_Message, frozen=True, kw_only=True, tag="typing_start"):
    """Someone types."""


class TypingStop(_Message, frozen=True, kw_only=True, tag="typing_stop"):
    """Someone stopped typing."""


class Ping(_Message, frozen=True, kw_only=True, tag="ping"):
    """Asks for a ``pong``."""


class Auth(_Message, frozen=True, kw_only=True, tag="auth"):
    """A browser's first message where a key is wanted: a ticket."""

    ticket: str


ClientMessage = Chat | Image | CreateSession | JoinSession | Resume | Cancel | TypingStart | TypingStop | Ping | Auth


class ServerInfo(msgspec.Struct, frozen=True):
    """Which server this is."""

    provider: str
    model: str
    framework: str


class Connected(_Message, frozen=True, kw_only=True, tag="connected"):
    """The first message of every connection."""

    connection_id: str
    server_info: ServerInfo


class SessionCreated(_Message, frozen=True, kw_only=True, tag="session_created"):
    """The session was made and joined."""

    session_id: str
    model: str | None


class SessionJoined(_Message, frozen=True, kw_only=True, tag="session_joined"):
    """The session was joined; ``running_turn_id`` can be resumed."""

    session_id: str
    model: str | None
    message_count: int
    running_turn_id: str | None


class Resumed(_Message, frozen=True, kw_only=True, tag="resumed"):
    """Before the events of every resume: what there is. Also the answer to ``cancel``, with ``after`` = ``last_seq``."""

    turn_id: str
    after: int
    last_seq: int
    status: Status


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to ``ping``."""


class Error(_Message, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """A refusal; the connection stays open. ``request_id`` names the refused request where it had one."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None


ServerMessage = Connected | SessionCreated | SessionJoined | Resumed | Pong | Error | SessionUpdate
Outgoing = list[Record] | ServerMessage


class Duplex:
    """One connection; use it as ``async with`` and give it the client's messages with ``take``.

    ``send`` writes one message, or committed events of one turn in order; it is never called twice at the same time.
    """

    def __init__(self, service: ChatService, send: Callable[[Outgoing], Awaitable[None]]) -> None:
        self.connection_id = str(uuid.uuid4())
        self._service = service
        self._write = send
        self._lock = asyncio.Lock()
        self._joined = contextlib.ExitStack()
        self._member: Membership | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._service.counters.connections_active += 1
        self._service.log.info("connected", connection=short(self.connection_id))
        about = self._service.about()
        info = ServerInfo(about["provider"], about["model"], about["framework"])
        await self._send(Connected(connection_id=self.connection_id, server_info=info))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._service.counters.connections_active -= 1
        self._service.log.info("disconnected", connection=short(self.connection_id))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._joined.close()

    async def take(self, message: ClientMessage) -> None:
        """Do what one message asks. A refusal is sent as ``error``; one that closes connections is raised."""
        try:
            await self._take(message)
        except ChatError as error:
            if error.kind.ws_close is not None:
                raise
            await self._refuse(error, getattr(message, "request_id", None))

    async def refuse(self, error: ChatError) -> None:
        """Answer what was no message at all."""
        await self._refuse(error, None)

    async def _refuse(self, error: ChatError, request_id: str | None) -> None:
        await self._send(
            Error(code=error.code, message=error.message, retryable=error.retryable, request_id=request_id)
        )

    async def _take(self, message: ClientMessage) -> None:
        service = self._service
        match message:
            case Chat():
                session_id = message.session_id
                if session_id is None and self._member is not None:
                    session_id = self._member.session_id
                turn = await service.start_chat(
                    message.message,
                    session_id=session_id,
                    model_id=message.model_id,
                    request_id=message.request_id,
                    origin=self._member,
                )
                if session_id is None and turn.session_id is not None:
                    self._join(turn.session_id)
                self._pump(await service.open(turn.turn_id, 0))
            case Image():
                turn = await service.start_image(
                    message.prompt,
                    size=message.size,
                    session_id=message.session_id,
                    request_id=message.request_id,
                    origin=self._member,
                )
                self._pump(await service.open(turn.turn_id, 0))
            case CreateSession():
                session = await service.create_session(message.model_id)
                self._join(session.session_id)
                await self._send(SessionCreated(session_id=session.session_id, model=session.model))
            case JoinSession():
                session = await service.get_session(message.session_id)
                self._join(session.session_id)
                await self._send(
                    SessionJoined(
                        session_id=session.session_id,
                        model=session.model,
                        message_count=session.message_count,
                        running_turn_id=session.running_turn_id,
                    )
                )
            case Resume():
                reader = await service.open(message.turn_id, message.after)
                await self._stop_pump(message.turn_id)
                await self._send(
                    Resumed(
                        turn_id=message.turn_id, after=message.after, last_seq=reader.last_seq, status=reader.status
                    )
                )
                self._pump(reader)
            case Cancel():
                await service.get_turn(message.turn_id)
                self._spawn(self._cancel(message.turn_id))
            case TypingStart() | TypingStop():
                if self._member is None:
                    raise ChatError("invalid_request", "Join a session first.")
                service.typing(self._member, isinstance(message, TypingStart))
            case Ping():
                await self._send(Pong())
            case Auth():
                # Already in: a ticket more changes nothing.
                pass

    async def _cancel(self, turn_id: str) -> None:
        try:
            turn = await self._service.cancel_turn(turn_id)
            pump = self._pumps.get(turn_id)
            if pump is not None:
                # The terminal event comes first, then the answer that the turn has stopped.
                await asyncio.wait((pump,))
            state = Resumed(turn_id=turn_id, after=turn.last_seq, last_seq=turn.last_seq, status=turn.status)
            await self._send(state)
        except ChatError as error:
            await self._refuse(error, None)

    def _join(self, session_id: str) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._joined.close()
        self._member = self._joined.enter_context(self._service.join(session_id))
        self._listening = self._spawn(self._listen(self._member))

    async def _listen(self, member: Membership) -> None:
        async for item in member:
            if isinstance(item, SessionUpdate):
                await self._send(item)
            elif item.turn_id not in self._pumps:
                with contextlib.suppress(ChatError):
                    self._pump(await self._service.open(item.turn_id, 0))

    def _pump(self, reader: Reader) -> None:
        if reader.turn_id not in self._pumps:
            self._pumps[reader.turn_id] = self._spawn(self._read(reader))

    async def _stop_pump(self, turn_id: str) -> None:
        pump = self._pumps.pop(turn_id, None)
        if pump is not None:
            pump.cancel()
            await asyncio.wait((pump,))

    async def _read(self, reader: Reader) -> None:
        try:
            with reader:
                async for records in reader:
                    if records:
                        await self._send(records)
        finally:
            if self._pumps.get(reader.turn_id) is asyncio.current_task():
                del self._pumps[reader.turn_id]

    async def _send(self, item: Outgoing) -> None:
        async with self._lock:
            await self._write(item)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
