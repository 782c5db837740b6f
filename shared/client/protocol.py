"""What the shell, the comparison and the diagrams call: one client protocol, and the resuming that all five clients share.

A leaf's client knows how to ask, how to read frames and how to come back to a cursor on its wire. Everything else is here: drop
what was seen already, notice a gap or a stream without its end, check the final sha256, reconnect with backoff and jitter, give up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from shared.errors import ChatError, ConnectionLost
from shared.events import TERMINAL, AnyEvent, Kind, TurnFailed
from shared.reply import Fold, Picture, Reply, Snapshot, text_sha256
from shared.session import Message, ModelInfo, Session, SessionPage, SessionUpdate
from shared.stats import ServerStats

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 2.0
# What ends a stream follows its terminal event at once.
_END_S = 0.25
_NOT_HELD = "This transport holds no connection."
_WORTH_RETRYING = frozenset({"shutting_down", "storage_unavailable", "rate_limited", "too_many_streams"})


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke after seq ``after``; the client is trying to come back."""

    after: int
    why: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The stream goes on after seq ``after``, ``elapsed_ms`` after it was lost, at the ``attempts``-th try."""

    after: int
    attempts: int
    elapsed_ms: float


Item = AnyEvent | Reply | Picture | Lost | Resumed
Opening = Callable[[], AsyncGenerator[AnyEvent | Reply | Picture, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for a turn, the same on every wire; ``text`` is the message or the prompt."""

    text: str
    kind: Kind = "chat"
    session_id: str | None = None
    model_id: str | None = None
    size: str | None = None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class ClientCounts:
    """What a client has counted; bytes are those of bodies and frames as far as the library shows them."""

    connections: int = 0
    lost: int = 0
    resumed: int = 0
    bytes_received: int = 0


class Corrupted(ConnectionLost):
    """What arrived does not have the sha256 that the server gave for it."""


class ServerAbsent(ConnectionLost):
    """Nothing answers at the address; nothing was sent."""


class Silent(ConnectionLost):
    """Nothing came for ``silence_s``; whether anybody is there is not known."""


class ChatClient(ABC):
    """A client of one transport. Use it as ``async with``; every method may raise ChatError and ConnectionLost.

    ``resume=False`` shows the naked protocol: the first lost connection ends the stream with ConnectionLost. Otherwise the client
    gives up after ``give_up_s`` without a new event. ``silence_s``: a stream that says nothing for so long, not even a
    heartbeat, is lost.
    """

    transport: ClassVar[str]
    holds_connection: ClassVar[bool] = False

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        resume: bool = True,
        give_up_s: float = 30.0,
        silence_s: float = 45.0,
    ) -> None:
        self.address = address
        self.counts = ClientCounts()
        self._key = key
        self._resume = resume
        self._give_up_s = give_up_s
        self._silence_s = silence_s

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- turns: the same for all -------------------------------------------------------------------------------------------

    def chat(
        self,
        message: str,
        *,
        session_id: str | None = None,
        model_id: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Ask, and read the answer to its end: events as they come, or one Reply on plain REST; Lost and Resumed between."""
        ask = Ask(text=message, session_id=session_id, model_id=model_id, request_id=request_id or str(uuid.uuid4()))
        return self._follow(lambda: self._chat(ask))

    def image(
        self, prompt: str, *, size: str | None = None, session_id: str | None = None, request_id: str | None = None
    ) -> AsyncGenerator[Item, None]:
        """Ask for a picture of ``size`` WIDTHxHEIGHT: its events, or one Picture on plain REST."""
        ask = Ask(
            text=prompt, kind="image", size=size, session_id=session_id, request_id=request_id or str(uuid.uuid4())
        )
        return self._follow(lambda: self._image(ask))

    def read(self, turn_id: str, after: int = 0) -> AsyncGenerator[Item, None]:
        """Read a turn from a cursor to its end, on any transport, whoever started it."""
        return self._follow(lambda: self._read(turn_id, after), turn_id, after)

    async def _follow(self, first: Opening, turn_id: str | None = None, after: int = 0) -> AsyncGenerator[Item, None]:
        fold = Fold() if after == 0 else None
        opening = first
        lost_at: float | None = None
        attempts = 0
        heard = False
        while True:
            try:
                async with aclosing(opening()) as items:
                    async for item in items:
                        heard = True
                        if lost_at is not None:
                            self.counts.resumed += 1
                            yield Resumed(after, attempts, round((time.monotonic() - lost_at) * 1000, 3))
                            lost_at, attempts = None, 0
                        if isinstance(item, Reply | Picture):
                            _check_whole(item)
                            yield item
                            return
                        if item.seq <= after:
                            continue
                        if item.seq != after + 1:
                            raise ConnectionLost(f"event {after + 1} is missing", after=after, turn_id=turn_id)
                        turn_id, after = item.turn_id, item.seq
                        if fold is not None:
                            fold.add(item)
                            _check_end(fold)
                        yield item
                        if isinstance(item, TERMINAL):
                            await _let_end(items)
                            return
                # A turn that had ended before the cursor has nothing more to say.
                if opening is first and fold is None and lost_at is None and await self._ended(turn_id, after):
                    return
                raise ConnectionLost("the stream ended without its terminal event")
            except ChatError as error:
                if lost_at is None or error.code not in _WORTH_RETRYING:
                    raise
                why = error.message
            except Corrupted:
                raise
            except ConnectionLost as error:
                why = error.message
                if isinstance(error, ServerAbsent) and not heard and lost_at is None:
                    raise
                if not self._resume:
                    raise ConnectionLost(why, after=after, turn_id=turn_id) from error
                if lost_at is None:
                    lost_at = time.monotonic()
                    self.counts.lost += 1
                    yield Lost(after, why)
            if time.monotonic() - lost_at > self._give_up_s:
                raise ConnectionLost(f"gave up after {self._give_up_s:g} s: {why}", after=after, turn_id=turn_id)
            await asyncio.sleep(_backoff_s(attempts))
            attempts += 1
            if turn_id is not None:
                opening = self._reading(turn_id, after)

    # -- only where one connection is held: WebSocket and gRPC's Chat --------------------------------------------------------

    def watch(self, session_id: str) -> AsyncGenerator[AnyEvent | SessionUpdate, None]:
        """Join a session: the events of the turns that others start in it from now on, and the hints of other connections.

        Ends with its reader, or raises ConnectionLost: joining does not replay, so watch again and read what ran meanwhile.
        Raises ``invalid_request`` at once where no connection is held.
        """
        raise ChatError("invalid_request", _NOT_HELD)

    async def typing(self, session_id: str, typing: bool) -> None:
        """Tell the session's other connections that someone types, or stopped; joins the session when it is not."""
        raise ChatError("invalid_request", _NOT_HELD)

    def _reading(self, turn_id: str, after: int) -> Opening:
        return lambda: self._read(turn_id, after)

    async def _ended(self, turn_id: str | None, after: int) -> bool:
        if turn_id is None:
            return False
        turn = await self.get_turn(turn_id)
        return turn.status != "running" and turn.last_seq == after

    # -- what a wire does in its own way -----------------------------------------------------------------------------------

    @abstractmethod
    def _chat(self, ask: Ask) -> AsyncGenerator[AnyEvent | Reply | Picture, None]:
        """Ask once and yield what comes. Raises ConnectionLost when the line breaks, ChatError when the server refuses."""

    @abstractmethod
    def _image(self, ask: Ask) -> AsyncGenerator[AnyEvent | Reply | Picture, None]:
        """The same for a picture."""

    @abstractmethod
    def _read(self, turn_id: str, after: int) -> AsyncGenerator[AnyEvent | Reply | Picture, None]:
        """The events of a turn after a cursor."""

    @abstractmethod
    async def connect(self) -> None:
        """Be able to send; where the protocol holds a connection, open it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of everything."""

    @abstractmethod
    async def cut(self) -> None:
        """Drop the open connections as a broken cable would; running streams notice by themselves."""

    @abstractmethod
    async def create_session(self, model_id: str | None = None) -> Session:
        """Make a session."""

    @abstractmethod
    async def get_session(self, session_id: str) -> Session:
        """One session."""

    @abstractmethod
    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """A page of sessions, newest first."""

    @abstractmethod
    async def list_messages(self, session_id: str) -> list[Message]:
        """All messages of a session, in order."""

    @abstractmethod
    async def clear_session(self, session_id: str) -> None:
        """Drop the messages of a session."""

    @abstractmethod
    async def delete_session(self, session_id: str) -> None:
        """Drop a session."""

    @abstractmethod
    async def start(self, ask: Ask) -> Snapshot:
        """Start a turn that runs on though nobody reads it."""

    @abstractmethod
    async def get_turn(self, turn_id: str) -> Snapshot:
        """Where a turn stands."""

    @abstractmethod
    async def cancel(self, turn_id: str) -> Snapshot:
        """Stop a turn; its state when it has stopped."""

    @abstractmethod
    async def get_image(self, image_id: str) -> bytes:
        """The bytes of a picture."""

    @abstractmethod
    async def list_models(self) -> list[ModelInfo]:
        """The model ids one may ask for."""

    @abstractmethod
    async def stats(self) -> ServerStats:
        """What the server has counted."""

    @abstractmethod
    async def health(self) -> dict[str, Any]:
        """The server's readiness: at least ``status``."""

    @abstractmethod
    async def ping(self) -> float:
        """One round trip in milliseconds."""

    def page(self, path: str) -> str | None:
        """The address of one of the server's pages, such as ``/docs``, for a browser; None where a browser cannot go."""
        return None

    async def services(self) -> list[str]:
        """What can be called, asked of the server itself, where no page says it."""
        return []


async def _let_end(items: AsyncGenerator[AnyEvent | Reply | Picture, None]) -> None:
    """Read what ends the stream, so that its connection can be used again. The turn has its end: nothing here is news."""
    with contextlib.suppress(ChatError, ConnectionLost, TimeoutError):
        async with asyncio.timeout(_END_S):
            async for _ in items:
                pass


async def collect(items: AsyncGenerator[Item, None]) -> Reply:
    """Read a chat to its end and add it up. Raises ChatError with the code of a failed turn."""
    fold = Fold()
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Reply):
                return item
            if not isinstance(item, Lost | Resumed | Picture):
                fold.add(item)
    return fold.reply()


async def collect_picture(items: AsyncGenerator[Item, None]) -> Picture:
    """Read an image turn to its end. Raises ChatError with the code of a failed turn, or ``turn_not_completed``."""
    fold = Fold()
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Picture):
                return item
            if not isinstance(item, Lost | Resumed | Reply):
                fold.add(item)
    return fold.picture()


def _backoff_s(attempts: int) -> float:
    """Exponential backoff with jitter."""
    jitter: float = random.uniform(0.5, 1.0)
    return jitter * min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(attempts, 10))


def _check_whole(item: Reply | Picture) -> None:
    sha256 = text_sha256(item.text) if isinstance(item, Reply) else hashlib.sha256(item.image).hexdigest()
    if item.sha256 != sha256:
        raise Corrupted("the reply does not have its sha256", turn_id=item.turn_id)


def _check_end(fold: Fold) -> None:
    end = fold.terminal
    if end is not None and not isinstance(end, TurnFailed) and end.sha256 != fold.sha256:
        raise Corrupted("what arrived does not have its sha256", after=end.seq, turn_id=end.turn_id)
