"""The client's end of a held connection: several turns, commands and a watched session at once on one line.

Knows no frames: a leaf opens the connection and gives its two directions as messages (``Wire``).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from shared.client.http import HttpClient
from shared.client.protocol import Ask
from shared.duplex_messages import (
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
    ServerMessage,
    SessionCreated,
    SessionJoined,
    TypingStart,
    TypingStop,
)
from shared.errors import ChatError, ConnectionLost
from shared.events import TERMINAL, AnyEvent, Event, TurnStarted
from shared.reply import Snapshot
from shared.session import Session, SessionUpdate

A = TypeVar("A", bound=msgspec.Struct)
T = TypeVar("T", bound=AnyEvent | SessionUpdate)
Stream = asyncio.Queue[AnyEvent | SessionUpdate | Exception]


class Wire(Protocol):
    """A connection as messages. Every method may raise ConnectionLost."""

    async def send(self, message: ClientMessage) -> None:
        """Write one message."""

    async def receive(self) -> AnyEvent | ServerMessage:
        """The next message. Raises ChatError when the server closed the connection for one of our reasons."""

    async def close(self) -> None:
        """Part well."""

    def abort(self) -> None:
        """Break off, as a broken cable would."""


class Line:
    """Who waits for what on one connection."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.lost = False
        self.joined: str | None = None
        self._asked: dict[str, set[Stream]] = {}
        self._readers: dict[str, set[Stream]] = {}
        self._watchers: dict[Stream, str] = {}
        self._answers: dict[str, tuple[Callable[[ServerMessage], bool], asyncio.Future[Any]]] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self._asked or self._readers or self._watchers or self._answers)

    @property
    def watched(self) -> bool:
        """Whether someone watches the joined session."""
        return bool(self._watchers)

    async def turn(self, message: Chat | Image) -> AsyncGenerator[AnyEvent, None]:
        """Start a turn, or join the one with this ``request_id``, and read it. Raises ChatError, ConnectionLost."""
        assert message.request_id is not None
        stream: Stream = asyncio.Queue()
        self._asked.setdefault(message.request_id, set()).add(stream)
        try:
            await self.wire.send(message)
            async for event in _until_end(stream):
                yield event
        finally:
            self._forget(stream)

    async def resume(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        """The events of a turn after a cursor; none when it had ended there."""
        stream: Stream = asyncio.Queue()

        def is_ours(answer: Resumed) -> bool:
            ours = (answer.turn_id, answer.after) == (turn_id, after)
            if ours:
                # From here on, not before: what is still under way belongs to the subscription that this one replaces.
                self._readers.setdefault(turn_id, set()).add(stream)
            return ours

        try:
            state = await self.ask(Resume(turn_id=turn_id, after=after), Resumed, is_ours)
            if state.status == "running" or state.last_seq > after:
                async for event in _until_end(stream):
                    yield event
        finally:
            self._forget(stream)

    async def watch(self, session_id: str) -> AsyncGenerator[AnyEvent | SessionUpdate, None]:
        """Join a session and yield its hints and the turns that others start in it, each event once."""
        self._check_watched(session_id)
        stream: Stream = asyncio.Queue()
        seen: dict[str, int] = {}
        self._watchers[stream] = session_id
        try:
            await self.join(session_id)
            while True:
                item = await stream.get()
                if isinstance(item, Exception):
                    raise item
                if not isinstance(item, SessionUpdate):
                    if item.seq <= seen.get(item.turn_id, 0):
                        continue
                    seen[item.turn_id] = item.seq
                yield item
        finally:
            del self._watchers[stream]
            self._forget(stream)

    async def join(self, session_id: str) -> None:
        """Be in a session; a connection is in one at a time. Raises ``invalid_request`` when another one is watched here."""
        self._check_watched(session_id)
        if self.joined != session_id:
            await self.ask(JoinSession(session_id=session_id), SessionJoined, lambda it: it.session_id == session_id)
            self.joined = session_id

    def _check_watched(self, session_id: str) -> None:
        if any(watched != session_id for watched in self._watchers.values()):
            raise ChatError("invalid_request", "This connection watches another session; use a client of its own.")

    async def ask(self, message: ClientMessage, kind: type[A], fits: Callable[[A], bool] = lambda answer: True) -> A:
        """Send a command and wait for its answer. Raises ChatError when it is refused, ConnectionLost with the line."""
        key = str(uuid.uuid4())
        answer = self.expect(kind, fits, key)
        try:
            await self.wire.send(msgspec.structs.replace(message, request_id=key))
            return await answer
        finally:
            self._answers.pop(key, None)

    def expect(
        self, kind: type[A], fits: Callable[[A], bool] = lambda answer: True, key: str = ""
    ) -> asyncio.Future[A]:
        """The next answer of a kind that fits and that nobody else expected before."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._answers[key] = (lambda message: isinstance(message, kind) and fits(message), answer)
        return answer

    async def receive(self) -> None:
        """Give out what comes in for as long as the line holds."""
        refusal: ChatError | None = None
        why = "the connection was closed"
        try:
            while True:
                self.take(await self.wire.receive())
        except ChatError as error:
            refusal, why = error, error.message
        except ConnectionLost as error:
            why = error.message
        finally:
            self._lose(why, refusal)

    def take(self, item: AnyEvent | ServerMessage) -> None:
        """One message from the server."""
        if isinstance(item, Event):
            self._deliver(item)
        elif isinstance(item, SessionUpdate):
            for stream, session_id in self._watchers.items():
                if session_id == item.session_id:
                    stream.put_nowait(item)
        elif isinstance(item, Error):
            self._refuse(item)
        else:
            for key, (fits, answer) in self._answers.items():
                if fits(item):
                    del self._answers[key]
                    if not answer.done():
                        answer.set_result(item)
                    return

    def _lose(self, why: str, refusal: ChatError | None) -> None:
        """The line is gone. What had no answer yet gets the refusal, when the server gave one by closing; all else is lost."""
        self.lost = True
        lost = ConnectionLost(why)
        for streams in self._asked.values():
            for stream in streams:
                stream.put_nowait(refusal or lost)
        for stream in {stream for streams in self._readers.values() for stream in streams} | self._watchers.keys():
            stream.put_nowait(lost)
        for _, answer in self._answers.values():
            if not answer.done():
                answer.set_exception(refusal or lost)
                # Whoever expected it may have left already.
                answer.exception()

    def _deliver(self, event: AnyEvent) -> None:
        if isinstance(event, TurnStarted):
            askers = self._asked.pop(event.request_id or "", None)
            if askers:
                self._readers.setdefault(event.turn_id, set()).update(askers)
            elif event.turn_id not in self._readers:
                watchers = {stream for stream, session_id in self._watchers.items() if session_id == event.session_id}
                if watchers:
                    self._readers[event.turn_id] = watchers
        readers = self._readers.get(event.turn_id, ())
        for stream in readers:
            stream.put_nowait(event)
        if readers and isinstance(event, TERMINAL):
            del self._readers[event.turn_id]

    def _refuse(self, error: Error) -> None:
        refusal = ChatError.received(error.code, error.message)
        for stream in self._asked.pop(error.request_id or "", ()):
            stream.put_nowait(refusal)
        # A server that does not repeat it answers in order.
        key = error.request_id if error.request_id is not None else next(iter(self._answers), "")
        _, answer = self._answers.pop(key, (None, None))
        if answer is not None and not answer.done():
            answer.set_exception(refusal)

    def _forget(self, stream: Stream) -> None:
        for table in (self._asked, self._readers):
            for name in [name for name, streams in table.items() if stream in streams]:
                table[name].discard(stream)
                if not table[name]:
                    del table[name]


async def _until_end(stream: Stream) -> AsyncGenerator[AnyEvent, None]:
    while True:
        item = await stream.get()
        if isinstance(item, Exception):
            raise item
        assert not isinstance(item, SessionUpdate)
        yield item
        if isinstance(item, TERMINAL):
            return


class HeldClient(HttpClient):
    """A client on one held connection; what is no conversation goes over the HTTP routes of the same server."""

    holds_connection: ClassVar[bool] = True

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._line: Line | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    @abstractmethod
    async def _open_wire(self) -> Wire:
        """Connect. Raises ServerAbsent, ConnectionLost, ChatError."""

    async def connect(self) -> None:
        await self._held()

    async def _held(self) -> Line:
        """The connection; opened when there is none, or no longer."""
        async with self._opening:
            if self._line is None or self._line.lost:
                line = Line(await self._open_wire())
                self.counts.connections += 1
                ready = line.expect(Connected)
                self._line, self._receiving = line, asyncio.create_task(line.receive())
                await ready
            return self._line

    async def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        message = Chat(
            message=ask.text,
            session_id=ask.session_id,
            model_id=ask.model_id,
            request_id=ask.request_id,
            new_session=ask.session_id is None,
        )
        async for event in self._reading_on(lambda line: line.turn(message)):
            yield event

    async def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent, None]:
        message = Image(prompt=ask.text, size=ask.size, session_id=ask.session_id, request_id=ask.request_id)
        async for event in self._reading_on(lambda line: line.turn(message)):
            yield event

    async def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent, None]:
        async for event in self._reading_on(lambda line: line.resume(turn_id, after)):
            yield event

    async def watch(self, session_id: str) -> AsyncGenerator[AnyEvent | SessionUpdate, None]:
        async for item in self._reading_on(lambda line: line.watch(session_id)):
            yield item

    async def _reading_on(self, read: Callable[[Line], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """Read something on the connection. One who leaves early leaves by closing it, when nobody else is on it."""
        line = await self._held()
        ended = False
        try:
            async with aclosing(read(line)) as items:
                async for item in items:
                    ended = isinstance(item, TERMINAL)
                    yield item
        except (GeneratorExit, asyncio.CancelledError):
            if not ended and line.idle and line is self._line:
                await self._hang_up()
            raise

    async def create_session(self, model_id: str | None = None) -> Session:
        line = await self._held()
        if line.watched:
            # Made on the line it would be joined there, in place of the one that is watched.
            return await super().create_session(model_id)
        made = await line.ask(CreateSession(model_id=model_id), SessionCreated)
        line.joined = made.session_id
        return await self.get_session(made.session_id)

    async def cancel(self, turn_id: str) -> Snapshot:
        line = await self._held()
        await line.ask(Cancel(turn_id=turn_id), Resumed, lambda it: it.turn_id == turn_id and it.status != "running")
        return await self.get_turn(turn_id)

    async def typing(self, session_id: str, typing: bool) -> None:
        line = await self._held()
        await line.join(session_id)
        await line.wire.send(TypingStart() if typing else TypingStop())

    async def ping(self) -> float:
        line = await self._held()
        begun = time.perf_counter()
        await line.ask(Ping(), Pong)
        return (time.perf_counter() - begun) * 1000

    async def cut(self) -> None:
        if self._line is not None:
            self._line.wire.abort()
        await super().cut()

    async def aclose(self) -> None:
        await self._hang_up()
        await super().aclose()

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None and self._receiving is not None:
            await line.wire.close()
            await self._receiving
