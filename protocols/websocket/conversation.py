"""Which reader waits for which message of one WebSocket connection: several turns, commands and a watched session at once.

A turn's events have a ``turn_id``. The first of them, ``turn_started``, repeats the ``request_id`` of the message that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import msgspec

from protocols.websocket.commands import Commands
from protocols.websocket.connection import Connection, Received
from protocols.websocket.inbox import Inbox
from shared.client.events import UnknownEvent
from shared.client.transport import TurnItem
from shared.duplex_messages import (
    Chat,
    ClientMessage,
    Connected,
    Error,
    Image,
    JoinSession,
    Ping,
    Resume,
    Resumed,
    SessionJoined,
)
from shared.errors import ChatError, ConnectionLost, SentAway
from shared.events import TERMINAL, AnyEvent, CursorLost, Event, TurnStarted
from shared.session import SessionUpdate

A = TypeVar("A", bound=msgspec.Struct)
_CONNECTED = "connected"
_CONNECTED_S = 0.5


class Conversation:
    """Everything that one client does on one connection. ``joined`` is the session that the connection is in."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lost = False
        self.joined: str | None = None
        # Inboxes by the request_id of a turn that has not started, by that of a turn that is read, by turn_id, by session.
        self._starting: dict[str, set[Inbox]] = {}
        self._asked: dict[str, set[Inbox]] = {}
        self._reading: dict[str, set[Inbox]] = {}
        self._watching: dict[Inbox, str] = {}
        self._commands = Commands()
        self._connected = self._commands.expect(_CONNECTED, Connected)
        self._receiving = asyncio.create_task(self._receive())

    @property
    def idle(self) -> bool:
        """Whether no reader and no command waits for anything."""
        return not (self._starting or self._reading or self._watching or self._commands)

    @property
    def watched(self) -> bool:
        """Whether the joined session is watched."""
        return bool(self._watching)

    async def connected(self) -> None:
        """Wait for the server's first message, ``connected``. Raises ChatError (no key, a wrong key), ConnectionLost."""
        done, _ = await asyncio.wait((self._connected,), timeout=_CONNECTED_S)
        if not done:
            # A server that wants a key waits 5 s for a ticket as the first message, and refuses at once after any other.
            with contextlib.suppress(ConnectionLost):
                await self.connection.send(Ping())
        await self._connected

    async def close(self) -> None:
        """Close the connection. Returns when it is closed and every reader has been told."""
        await self.connection.close()
        await self._receiving

    async def turn(self, message: Chat | Image) -> AsyncGenerator[TurnItem, None]:
        """Start a turn, or join the turn with this ``request_id``, and read it to its end."""
        assert message.request_id is not None
        inbox = Inbox()
        self._starting.setdefault(message.request_id, set()).add(inbox)
        self._asked.setdefault(message.request_id, set()).add(inbox)
        try:
            await self.connection.send(message)
            while True:
                item = await inbox.next_turn_item()
                yield item
                if isinstance(item, TERMINAL):
                    return
        finally:
            self._forget(inbox)

    async def resume(self, turn_id: str, after: int, epoch: int = 0) -> AsyncGenerator[TurnItem, None]:
        """The events of a turn after a cursor; none when the turn had ended there; all of them when the cursor is lost."""
        inbox = Inbox()

        def answers(message: Resumed) -> bool:
            if message.turn_id != turn_id or (message.after != after and not message.lost):
                return False
            # Events that arrive before ``resumed`` belong to the subscription that this one replaces.
            self._reading.setdefault(turn_id, set()).add(inbox)
            return True

        try:
            request_id = str(uuid.uuid4())
            self._asked[request_id] = {inbox}
            resume = Resume(turn_id=turn_id, after=after, epoch=epoch or None)
            state = await self.command(resume, Resumed, answers, request_id)
            ended = state.status != "running" and state.last_seq <= state.after
            while not ended:
                item = await inbox.next_turn_item()
                yield item
                ended = isinstance(item, TERMINAL)
        finally:
            self._forget(inbox)

    async def watch(self, session_id: str) -> AsyncGenerator[TurnItem | SessionUpdate, None]:
        """Join a session and yield its hints and the turns that others start in it, each event once.

        After CursorLost the events of that turn come again from the first one.
        """
        self._check_watched(session_id)
        inbox = Inbox()
        last_seq: dict[str, int] = {}
        self._watching[inbox] = session_id
        try:
            await self.join(session_id)
            while True:
                item = await inbox.next()
                if isinstance(item, CursorLost):
                    last_seq[item.turn_id] = 0
                elif not isinstance(item, SessionUpdate):
                    if item.seq <= last_seq.get(item.turn_id, 0):
                        continue
                    last_seq[item.turn_id] = item.seq
                yield item
        finally:
            del self._watching[inbox]
            self._forget(inbox)

    async def join(self, session_id: str) -> None:
        """Join a session, and leave the one before. Raises ``invalid_request`` when another session is watched."""
        self._check_watched(session_id)
        if self.joined != session_id:
            join = JoinSession(session_id=session_id)
            await self.command(join, SessionJoined, lambda answer: answer.session_id == session_id)
            self.joined = session_id

    def _check_watched(self, session_id: str) -> None:
        if any(watched != session_id for watched in self._watching.values()):
            raise ChatError("invalid_request", "This connection watches another session; use a client of its own.")

    async def command(
        self,
        message: ClientMessage,
        kind: type[A],
        fits: Callable[[A], bool] = lambda answer: True,
        request_id: str | None = None,
    ) -> A:
        """Send a command and wait for its answer. Raises ChatError when the server refuses, ConnectionLost."""
        request_id = request_id or str(uuid.uuid4())
        answer = self._commands.expect(request_id, kind, fits)
        try:
            await self.connection.send(msgspec.structs.replace(message, request_id=request_id))
            return await answer
        finally:
            self._commands.forget(request_id)

    async def _receive(self) -> None:
        """Hand out messages until the connection ends; then fail every waiting command and reader."""
        refusal: ChatError | None = None
        why = "the connection was closed"
        try:
            while True:
                message = await self.connection.receive()
                if message is not None:
                    self._hand_out(message)
        except ChatError as error:
            refusal, why = error, error.message
        except ConnectionLost as error:
            why = error.message
        finally:
            self._end(why, refusal)

    def _hand_out(self, message: Received) -> None:
        if isinstance(message, Event | UnknownEvent):
            self._deliver(message)
        elif isinstance(message, SessionUpdate):
            for inbox, session_id in self._watching.items():
                if session_id == message.session_id:
                    inbox.put(message)
        elif isinstance(message, Error):
            self._refuse(message)
        else:
            self._commands.answer(message)
            if isinstance(message, Resumed) and message.lost:
                # ``resumed`` does not name the epoch: a turn loses events with its first change of epoch.
                lost = CursorLost(turn_id=message.turn_id, last_seq=message.last_seq, epoch=1)
                for inbox in self._reading.get(message.turn_id, ()):
                    inbox.put(lost)

    def _deliver(self, event: AnyEvent | UnknownEvent) -> None:
        if isinstance(event, TurnStarted):
            askers = self._starting.pop(event.request_id or "", None)
            if askers:
                self._reading.setdefault(event.turn_id, set()).update(askers)
            elif event.turn_id not in self._reading:
                watchers = {inbox for inbox, session_id in self._watching.items() if session_id == event.session_id}
                if watchers:
                    self._reading[event.turn_id] = watchers
        readers = self._reading.get(event.turn_id, ())
        for inbox in readers:
            inbox.put(event)
        if readers and isinstance(event, TERMINAL):
            del self._reading[event.turn_id]

    def _refuse(self, error: Error) -> None:
        refusal = ChatError.received(error.code, error.message)
        starting = self._starting.pop(error.request_id or "", set())
        for inbox in starting:
            inbox.put(refusal)
        # The stream of a turn that has begun has ended early, and the client resumes it.
        for inbox in self._asked.get(error.request_id or "", set()) - starting:
            inbox.put(ConnectionLost(refusal.message))
        self._commands.refuse(error, refusal)

    def _end(self, why: str, refusal: ChatError | None) -> None:
        """Fail every waiting command and reader. A refusal, given by a close code, concerns only requests without an answer yet."""
        self.lost = True
        lost = ConnectionLost(why) if refusal is None else SentAway(why)
        for inboxes in self._starting.values():
            for inbox in inboxes:
                inbox.put(refusal or lost)
        for inbox in {inbox for inboxes in self._reading.values() for inbox in inboxes} | self._watching.keys():
            inbox.put(lost)
        self._commands.fail(refusal or lost)

    def _forget(self, inbox: Inbox) -> None:
        for table in (self._starting, self._asked, self._reading):
            for name in [name for name, inboxes in table.items() if inbox in inboxes]:
                table[name].discard(inbox)
                if not table[name]:
                    del table[name]
