"""A conversation in both directions: one WebSocket connection, or one gRPC ``Chat`` call. The two differ in framing
alone.

The client sends messages, and they are handled one after the other. The server sends answers to them, the events of any
number of turns at the same time, and hints about the session that the connection has joined.
``shared/duplex_messages.py`` has the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Self

from shared.chat.members import Membership
from shared.chat.service import ChatService
from shared.chat.turn_log import Line, LineDropped, Reader
from shared.duplex_messages import (
    Auth,
    Cancel,
    Chat,
    ClientMessage,
    Connected,
    CreateSession,
    Error,
    Heartbeat,
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
from shared.session import SessionUpdate, TurnBegan, short
from shared.store.record import Record

# LineDropped: end this connection and send nothing more.
Outgoing = list[Record] | ServerMessage | LineDropped
# A session tells that a turn began within moments of the turn's first events, so the newest ids are enough.
_MAX_STREAMED = 1024
_RETRY_S = 1.0


class Duplex:
    """One connection. Use it as ``async with``, and give each of the client's messages to ``handle``.

    ``write`` sends one message, or committed events of one turn in order. There is never more than one call of
    ``write`` at a time, and a call is cancelled only when the connection ends. A block that is left with the error
    ``shutting_down`` first sends the turns that it streams to their ends. ``line``: sends committed events as ``write``
    does, and without waiting, on a wire that can. ``heartbeat_s``: the silence in seconds after which a ``heartbeat`` is
    sent, on a wire that has no pings of its own.
    """

    __slots__ = (
        "_cancels",
        "_heartbeat_s",
        "_last_write",
        "_line",
        "_listening",
        "_member",
        "_service",
        "_start_lock",
        "_streamed",
        "_streams",
        "_tasks",
        "_write",
        "_write_lock",
        "connection_id",
    )

    def __init__(
        self,
        service: ChatService,
        write: Callable[[Outgoing], Awaitable[None]],
        *,
        line: Line | None = None,
        heartbeat_s: float | None = None,
    ) -> None:
        self.connection_id = str(uuid.uuid4())
        self._service = service
        self._write = write
        self._line = line
        self._heartbeat_s = heartbeat_s
        self._last_write = 0.0
        self._write_lock = asyncio.Lock()
        # The lock is held from the start of a turn on this connection until the turn's stream has begun.
        self._start_lock = asyncio.Lock()
        # The joined session, and the task that sends what happens there.
        self._member: Membership | None = None
        self._listening: asyncio.Task[None] | None = None
        # The task that sends a turn's events, by turn id; and the ids of all turns that had such a task.
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._streamed: dict[str, None] = {}
        # All tasks of this connection; and those that cancel a turn, which go on when the client leaves.
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancels: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        about = self._service.about()
        info = ServerInfo(about["provider"], about["model"], about["framework"])
        await self._send(Connected(connection_id=self.connection_id, server_info=info))
        if self._heartbeat_s is not None:
            self._spawn(self._send_heartbeats(self._heartbeat_s))
        self._service.counters.connections_active += 1
        self._service.logger.info("connected", connection=short(self.connection_id))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, ChatError) and error.code == "shutting_down":
                await self.finish()
        finally:
            self._service.counters.connections_active -= 1
            self._service.logger.info("disconnected", connection=short(self.connection_id))
            if self._member is not None:
                self._service.leave(self._member)
            for task in self._tasks - self._cancels:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def handle(self, message: ClientMessage) -> None:
        """Do what a message asks. A refusal is sent as ``error``; an error that closes the connection is raised."""
        await self._guarded(self._handle(message), message.request_id)

    async def refuse(self, error: ChatError, request_id: str | None = None) -> None:
        """Send an ``error``, also for what the client sent that is not a message."""
        refusal = Error(code=error.code, message=error.message, retryable=error.retryable, request_id=request_id)
        await self._send(refusal)

    async def finish(self) -> None:
        """Send the turns that are streamed to their ends, and finish the client's cancels; the client will send no more."""
        while unfinished := {*self._streams.values(), *self._cancels}:
            await asyncio.wait(unfinished)

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancel a task of this connection, and wait for its end.

        The task is cancelled between two writes. A write that is cancelled in the middle leaves half a message on the
        wire.
        """
        async with self._write_lock:
            task.cancel()
        await asyncio.wait((task,))

    async def _guarded(self, work: Coroutine[None, None, None], request_id: str | None = None) -> None:
        try:
            await work
        except ChatError as error:
            if error.kind.ws_close is not None:
                raise
            await self.refuse(error, request_id)
        except Exception as error:  # noqa: BLE001 - the connection lives on, and the text of the exception must not travel
            self._service.logger.error("internal error", why=type(error).__name__)
            await self.refuse(ChatError("internal"), request_id)

    async def _handle(self, message: ClientMessage) -> None:
        match message:
            case Chat():
                await self._chat(message)
            case Image():
                await self._image(message)
            case CreateSession():
                await self._create_session(message)
            case JoinSession():
                await self._join_session(message)
            case Resume():
                await self._resume(message)
            case Cancel():
                await self._cancel(message)
            case TypingStart() | TypingStop():
                if self._member is None:
                    raise ChatError("invalid_request", "Join a session first: send join_session, or create_session.")
                await self._service.typing(self._member, isinstance(message, TypingStart))
            case Ping():
                await self._send(Pong())
            case Auth():
                # The connection is authenticated already, and one more ticket changes nothing.
                pass

    async def _chat(self, message: Chat) -> None:
        """Start a chat in the session that the message names, else in the joined one, else in a new one that is joined then."""
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

        async with self._start_lock:
            try:
                reader = await start(joined if message.session_id is None else message.session_id)
            except ChatError as error:
                if error.code != "idempotency_key_reused" or joined is None or message.session_id is not None:
                    raise
                # The client repeats a request. The first one came before the session was joined, because it made this
                # session.
                reader = await start(None)
            if message.session_id is None and self._member is None and reader.session_id and not message.new_session:
                await self._join(reader.session_id, origin)
                self._listen()
            await self._stream(reader, message.request_id)

    async def _image(self, message: Image) -> None:
        async with self._start_lock:
            reader = await self._service.start_image(
                message.prompt,
                size=message.size,
                session_id=message.session_id,
                request_id=message.request_id,
                origin=self._member,
            )
            await self._stream(reader, message.request_id)

    async def _create_session(self, message: CreateSession) -> None:
        session = await self._service.create_session(message.model_id)
        await self._join(session.session_id)
        await self._send(SessionCreated(session_id=session.session_id, model=session.model))
        self._listen()

    async def _join_session(self, message: JoinSession) -> None:
        await self._service.get_session(message.session_id)
        await self._join(message.session_id)
        # The session is read again after joining: a turn that started in between is either its ``running_turn_id``, or
        # the membership announces it.
        session = await self._service.get_session(message.session_id)
        await self._send(
            SessionJoined(
                session_id=session.session_id,
                model=session.model,
                message_count=session.message_count,
                running_turn_id=session.running_turn_id,
            )
        )
        self._listen()

    async def _resume(self, message: Resume) -> None:
        reader = await self._service.open(message.turn_id, message.after, message.epoch or 0, rewinds=True)
        await self._stop_stream(message.turn_id)
        await self._send_resumed(reader, lost=reader.rewind() is not None)
        await self._stream(reader, message.request_id)

    async def _send_resumed(self, reader: Reader, *, lost: bool) -> None:
        """Say where a turn stands and after which seq the next events come."""
        await self._send(
            Resumed(
                turn_id=reader.turn_id, after=reader.after, last_seq=reader.last_seq, status=reader.status, lost=lost
            )
        )

    async def _cancel(self, message: Cancel) -> None:
        """Refuse an unknown turn at once; cancel a known one in a task, because the client's next message need not wait."""
        await self._service.get_turn(message.turn_id)
        task = self._spawn(self._cancel_and_answer(message.turn_id), message.request_id)
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _cancel_and_answer(self, turn_id: str) -> None:
        turn = await self._service.cancel_turn(turn_id)
        stream = self._streams.get(turn_id)
        if stream is not None:
            # The terminal event is sent before the answer.
            await asyncio.wait((stream,))
        await self._send(Resumed(turn_id=turn_id, after=turn.last_seq, last_seq=turn.last_seq, status=turn.status))

    async def _join(self, session_id: str, member: Membership | None = None) -> None:
        """Join a session in place of the one that was joined before."""
        if self._member is not None and self._member.session_id == session_id:
            return
        if self._listening is not None:
            await self.stop(self._listening)
            self._listening = None
        if self._member is not None:
            self._service.leave(self._member)
            self._member = None
        self._member = await self._service.join(session_id, member)

    def _listen(self) -> None:
        """Begin to send what happens in the joined session. Call this after the answer that the session is joined."""
        if self._listening is None and self._member is not None:
            self._listening = self._spawn(self._send_session(self._member))

    async def _send_session(self, member: Membership) -> None:
        async for item in member:
            match item:
                case SessionUpdate():
                    await self._send(item)
                case TurnBegan():
                    await self._stream_begun(item.turn_id)

    async def _stream_begun(self, turn_id: str) -> None:
        """Stream a turn that began in the joined session, unless this connection has started the turn itself."""
        async with self._start_lock:
            if turn_id not in self._streamed:
                # The turn may have been deleted meanwhile, or too many streams may be open. The client has asked
                # nothing, so it gets no error.
                with contextlib.suppress(ChatError):
                    reader = await self._service.open(turn_id, 0)
                    # The client may have resumed the turn meanwhile.
                    if turn_id not in self._streamed:
                        await self._start_stream(reader, self._send_always(reader))

    async def _stream(self, reader: Reader, request_id: str | None) -> None:
        """Stream a turn that the client has asked for with the message that has this ``request_id``."""
        await self._start_stream(reader, self._send_to_end(reader), request_id)

    async def _start_stream(
        self, reader: Reader, sending: Coroutine[None, None, None], request_id: str | None = None
    ) -> None:
        """Stream a turn from the reader's cursor on, in place of a stream of this turn that runs."""
        await self._stop_stream(reader.turn_id)
        self._streamed[reader.turn_id] = None
        if len(self._streamed) > _MAX_STREAMED:
            del self._streamed[next(iter(self._streamed))]
        task = self._streams[reader.turn_id] = self._spawn(sending, request_id)
        task.add_done_callback(lambda _: self._forget_stream(reader.turn_id, task))

    def _forget_stream(self, turn_id: str, task: asyncio.Task[None]) -> None:
        if self._streams.get(turn_id) is task:
            del self._streams[turn_id]

    async def _stop_stream(self, turn_id: str) -> None:
        stream = self._streams.pop(turn_id, None)
        if stream is not None:
            await self.stop(stream)

    async def _send_to_end(self, reader: Reader) -> None:
        """Send events until the turn has ended or this server stops. Raises ``storage_unavailable``, and the client resumes.

        Raises ``turn_not_found`` when the store has lost the turn: the client would wait on this connection for ever.
        """
        await self._send_events(reader)
        if reader.closed_for in ("storage_unavailable", "turn_not_found") and not reader.complete:
            raise ChatError(reader.closed_for)

    async def _send_always(self, reader: Reader) -> None:
        """Send the events of a turn that the client has not asked for: this connection resumes it for the client."""
        await self._send_events(reader)
        while reader.closed_for == "storage_unavailable" and not (reader.complete or self._service.draining):
            await asyncio.sleep(_RETRY_S)
            with contextlib.suppress(ChatError):
                reader = await self._service.open(reader.turn_id, reader.after, rewinds=True)
                await self._send_events(reader)

    def send_now(self, records: Sequence[Record]) -> int:
        """The line of this connection's readers. While a message is being written, no event is sent here."""
        if self._line is None or self._write_lock.locked():
            return 0
        self._last_write = time.monotonic()
        return self._line.send_now(records)

    async def _send_events(self, reader: Reader) -> None:
        if self._line is not None:
            reader.line = self
        try:
            with reader:
                while True:
                    async for records in reader:
                        if records:
                            await self._send(records)
                    if reader.rewind() is None:
                        break
                    await self._send_resumed(reader, lost=True)
                if reader.was_cut:
                    # Only the end of the connection tells the client that no more events come.
                    raise LineDropped
        except LineDropped as dropped:
            await self._send(dropped)

    async def _send(self, item: Outgoing) -> None:
        async with self._write_lock:
            if self._line is not None and isinstance(item, list):
                # Events for which the connection has room need no pass through the framework each.
                item = item[self._line.send_now(item) :]
            if not isinstance(item, list) or item:
                await self._write(item)
            self._last_write = time.monotonic()

    async def _send_heartbeats(self, heartbeat_s: float) -> None:
        while True:
            silence_s = time.monotonic() - self._last_write
            if silence_s < heartbeat_s:
                await asyncio.sleep(heartbeat_s - silence_s)
            else:
                await self._send(Heartbeat())

    async def _answered(self, work: Coroutine[None, None, None], request_id: str | None) -> None:
        """Send also what would close the connection as ``error``: nobody awaits a task's exception.

        That is ``shutting_down``. The connection is closed after the drain, when its turns have been sent to their ends.
        """
        try:
            await self._guarded(work, request_id)
        except ChatError as error:
            await self.refuse(error, request_id)

    def _spawn(self, work: Coroutine[None, None, None], request_id: str | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(self._answered(work, request_id))
        # A task that is cancelled before its first step never awaits the coroutine, and Python would warn.
        task.add_done_callback(lambda _: work.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
