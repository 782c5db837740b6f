"""A held connection in both directions: the WebSocket and gRPC's ``Chat`` are this, in two framings.

A client's messages come in one after the other; answers, events of any number of turns, and hints about the joined session go out
(see ``messages.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Self

from shared.chat.members import Membership
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader
from shared.duplex_messages import (
    Auth,
    Cancel,
    Chat,
    ClientMessage,
    Connected,
    CreateSession,
    Error,
    Image,
    JoinSession,
    Ping,
    Pong,
    Resume,
    Resumed,
    ServerInfo,
    ServerMessage,
    SessionCreated,
    SessionJoined,
    TypingStart,
    TypingStop,
)
from shared.errors import ChatError
from shared.logger import short
from shared.session import SessionUpdate
from shared.store.record import Record

Outgoing = list[Record] | ServerMessage
# A turn's start is told within moments of its events, so it is enough to remember the newest that were read.
_REMEMBERED = 1024


class Duplex:
    """One connection; use it as ``async with`` and give it the client's messages with ``take``.

    ``send`` writes one message, or committed events of one turn in order. It is never called twice at the same time,
    and a call is cancelled only when the connection ends. A block left with ``shutting_down`` first delivers the turns
    that it is reading to their ends.
    """

    __slots__ = (
        "_cancels",
        "_joined",
        "_listening",
        "_lock",
        "_member",
        "_pumps",
        "_read_here",
        "_service",
        "_starting",
        "_tasks",
        "_write",
        "connection_id",
    )

    def __init__(self, service: ChatService, send: Callable[[Outgoing], Awaitable[None]]) -> None:
        self.connection_id = str(uuid.uuid4())
        self._service = service
        self._write = send
        self._lock = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._joined: contextlib.AbstractContextManager[Membership] | None = None
        self._member: Membership | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._read_here: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancels: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        about = self._service.about()
        info = ServerInfo(about["provider"], about["model"], about["framework"])
        await self._send(Connected(connection_id=self.connection_id, server_info=info))
        self._service.counters.connections_active += 1
        self._service.log.info("connected", connection=short(self.connection_id))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, ChatError) and error.code == "shutting_down":
                await self.finish()
        finally:
            self._service.counters.connections_active -= 1
            self._service.log.info("disconnected", connection=short(self.connection_id))
            self._leave()
            for task in self._tasks - self._cancels:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def take(self, message: ClientMessage) -> None:
        """Do what one message asks. A refusal is sent as ``error``; one that closes connections is raised."""
        await self._guarded(self._take(message), message.request_id)

    async def finish(self) -> None:
        """The client will say no more: send the turns that are being read to their ends, and do what it cancelled."""
        while unfinished := {*self._pumps.values(), *self._cancels}:
            await asyncio.wait(unfinished)

    async def refuse(self, error: ChatError, request_id: str | None = None) -> None:
        """Answer what was no message at all."""
        refusal = Error(code=error.code, message=error.message, retryable=error.retryable, request_id=request_id)
        await self._send(refusal)

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancel a task that sends on this connection, and wait for its end.

        The task is cancelled between two writes. A write that is cancelled in the middle leaves half a message on the wire.
        """
        async with self._lock:
            task.cancel()
        await asyncio.wait((task,))

    async def _guarded(self, work: Coroutine[None, None, None], request_id: str | None = None) -> None:
        try:
            await work
        except ChatError as error:
            if error.kind.ws_close is not None:
                raise
            await self.refuse(error, request_id)
        except Exception as error:  # noqa: BLE001 - the connection must live on, and the text of a fault must not travel
            self._service.log.error("internal error", why=type(error).__name__)
            await self.refuse(ChatError("internal"), request_id)

    async def _take(self, message: ClientMessage) -> None:
        service = self._service
        match message:
            case Chat():
                async with self._starting:
                    await self._chat(message)
            case Image():
                async with self._starting:
                    reader = await service.start_image(
                        message.prompt,
                        size=message.size,
                        session_id=message.session_id,
                        request_id=message.request_id,
                        origin=self._member,
                    )
                    await self._pump(reader)
            case CreateSession():
                session = await service.create_session(message.model_id)
                await self._join(session.session_id)
                await self._send(SessionCreated(session_id=session.session_id, model=session.model))
                self._listen()
            case JoinSession():
                await service.get_session(message.session_id)
                await self._join(message.session_id)
                # Asked again: a turn that began meanwhile is running_turn_id, or it will be heard of, and never neither.
                session = await service.get_session(message.session_id)
                await self._send(
                    SessionJoined(
                        session_id=session.session_id,
                        model=session.model,
                        message_count=session.message_count,
                        running_turn_id=session.running_turn_id,
                    )
                )
                self._listen()
            case Resume():
                reader = await service.open(message.turn_id, message.after)
                await self._stop_pump(message.turn_id)
                await self._send(
                    Resumed(
                        turn_id=message.turn_id, after=message.after, last_seq=reader.last_seq, status=reader.status
                    )
                )
                await self._pump(reader)
            case Cancel():
                await service.get_turn(message.turn_id)
                # Not given up when the client leaves: a cancel that was sent counts.
                self._spawn(self._cancel(message.turn_id), message.request_id, self._cancels)
            case TypingStart() | TypingStop():
                if self._member is None:
                    raise ChatError("invalid_request", "Join a session first.")
                service.typing(self._member, isinstance(message, TypingStart))
            case Ping():
                await self._send(Pong())
            case Auth():
                # Already in: a ticket more changes nothing.
                pass

    async def _chat(self, message: Chat) -> None:
        joined = None if self._member is None or message.new_session else self._member.session_id
        origin = self._member or Membership("")

        async def start(session_id: str | None) -> Reader:
            return await self._service.start_chat(
                message.message,
                session_id=session_id,
                model_id=message.model_id,
                request_id=message.request_id,
                origin=origin,
            )

        try:
            reader = await start(joined if message.session_id is None else message.session_id)
        except ChatError as error:
            if error.code != "idempotency_key_reused" or joined is None or message.session_id is not None:
                raise
            # The first time, this very request may have made the session that is joined now.
            reader = await start(None)
        if message.session_id is None and self._member is None and reader.session_id and not message.new_session:
            await self._join(reader.session_id, origin)
            self._listen()
        await self._pump(reader)

    async def _cancel(self, turn_id: str) -> None:
        turn = await self._service.cancel_turn(turn_id)
        pump = self._pumps.get(turn_id)
        if pump is not None:
            # The terminal event comes first, then the answer that the turn has stopped.
            await asyncio.wait((pump,))
        await self._send(Resumed(turn_id=turn_id, after=turn.last_seq, last_seq=turn.last_seq, status=turn.status))

    async def _join(self, session_id: str, member: Membership | None = None) -> None:
        if self._member is not None and self._member.session_id == session_id:
            return
        if self._listening is not None:
            await self.stop(self._listening)
            self._listening = None
        self._leave()
        self._joined = self._service.join(session_id, member)
        self._member = self._joined.__enter__()

    def _leave(self) -> None:
        if self._joined is not None:
            self._joined.__exit__(None, None, None)
            self._joined = None

    def _listen(self) -> None:
        if self._listening is None and self._member is not None:
            self._listening = self._spawn(self._hear(self._member))

    async def _hear(self, member: Membership) -> None:
        async for item in member:
            if isinstance(item, SessionUpdate):
                await self._send(item)
                continue
            # One that is being started here is read by who starts it.
            async with self._starting:
                if item.turn_id not in self._read_here:
                    with contextlib.suppress(ChatError):
                        reader = await self._service.open(item.turn_id, 0)
                        if item.turn_id not in self._read_here:
                            await self._pump(reader)

    async def _pump(self, reader: Reader) -> None:
        """Send a turn from the reader's cursor on; what is being sent of it so far ends."""
        await self._stop_pump(reader.turn_id)
        self._read_here[reader.turn_id] = None
        if len(self._read_here) > _REMEMBERED:
            del self._read_here[next(iter(self._read_here))]
        self._pumps[reader.turn_id] = self._spawn(self._read(reader))

    async def _stop_pump(self, turn_id: str) -> None:
        pump = self._pumps.pop(turn_id, None)
        if pump is not None:
            await self.stop(pump)

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

    def _spawn(
        self,
        work: Coroutine[None, None, None],
        request_id: str | None = None,
        group: set[asyncio.Task[None]] | None = None,
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work, request_id))
        # A task that is cancelled before its first step never awaits the coroutine, and Python would warn.
        task.add_done_callback(lambda _: work.close())
        for tasks in (self._tasks, group):
            if tasks is not None:
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        return task
