"""The chat itself: the only thing a server calls.

``start_chat`` and ``start_image`` refuse before the first byte or record a turn; one producer task per turn reads the model and
appends to the turn's log; ``open`` reads any log from any cursor, whether it is generated here, in another process, or long ended.
An event is committed to the store before any reader sees it; what arrives while one commit runs goes into the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
import uuid
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import msgspec

from shared.config import Settings
from shared.errors import ChatError
from shared.events import (
    IMAGE_CHUNK_BYTES,
    TERMINAL_STATUS,
    AnyEvent,
    Chunk,
    FinishReason,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Kind,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    Usage,
)
from shared.images import ImageModel, ImagePart, open_image_model
from shared.llm import ChatModel, Said, open_chat_model
from shared.logger import Log, Trace, short
from shared.session import Message, ModelInfo, Session, SessionPage, SessionUpdate, TurnBegan
from shared.stats import Counters, ServerStats
from shared.store import Append, End, NewTurn, Signal, Started, Store, StoredImage, TurnRow, open_store
from shared.turn import Reader, Record, Snapshot, TurnLog, text_sha256

DEFAULT_SIZE = "1024x1024"
_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_LIST_LIMIT = 50
_WEEK_MS = 7 * 24 * 3600 * 1000
_SIGNAL_KEPT_MS = 60_000
_WATCH_S = 0.02
_PURGE_S = 60.0
# A model that never waits would keep the event loop: after so many uncommitted events its producer waits for the commit.
_MAX_UNCOMMITTED = 64
_COMMIT_TRIES_S = 2.0


def now_ms() -> float:
    """Unix epoch milliseconds, to the microsecond."""
    return time.time_ns() // 1000 / 1000


class _Live:
    """A turn that this process generates: its log, what waits for the next commit, and why it was stopped, if it was."""

    def __init__(self, log: TurnLog, started: Started, default_s: float) -> None:
        self.log = log
        self.turn_id = log.turn_id
        self.session_id = started.turn.session_id
        self.message_count = started.message_count
        self.started_at = started.turn.last_read_at
        self.begun = default_s
        self.seq = 1
        self.texts: list[str] = []
        self.usage = Usage()
        self.image: StoredImage | None = None
        self.records: list[Record] = []
        self.images: list[StoredImage] = []
        self.end: End | None = None
        self.fenced = False
        self.stopped: str | None = None
        self.attended = True
        self.running = False
        self.task: asyncio.Task[None] | None = None
        self._commits: list[asyncio.Future[None]] = []

    async def committed(self) -> None:
        """Wait until everything appended so far is in the store, or never will be."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commits.append(waiter)
        await waiter

    def wake(self) -> None:
        """Everything taken has been dealt with."""
        if not self.records:
            waiters, self._commits = self._commits, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def stop(self, why: str) -> None:
        """Stop the model at once; ``why`` is ``cancelled`` or ``interrupted``."""
        if self.stopped is None and self.end is None:
            self.stopped = why
            # A task that is cancelled before its first step would never run at all, and its log would have no end.
            if self.running and self.task is not None:
                self.task.cancel()


class Membership:
    """A connection that joined a session: hints about it and the turns that start in it, for as long as the block runs."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._queue: asyncio.Queue[SessionUpdate | TurnBegan] = asyncio.Queue()

    def put(self, item: SessionUpdate | TurnBegan) -> None:
        """Hand one over."""
        self._queue.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[SessionUpdate | TurnBegan]:
        while True:
            yield await self._queue.get()


class ChatService:
    """One chat for any number of transports and processes on one store; use ``open_service``.

    ``origin`` arguments name the membership that caused something, so that it is not told of it again.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        chat_model: ChatModel,
        image_model: ImageModel,
        *,
        log: Log,
        trace: Trace,
        framework: str,
    ) -> None:
        self.settings = settings
        self.log = log
        self.counters = Counters()
        self.draining = False
        self.closed = asyncio.Event()
        self._store = store
        self._chat_model = chat_model
        self._image_model = image_model
        self._trace = trace
        self._framework = framework
        self._owner = str(uuid.uuid4())
        self._lives: dict[str, _Live] = {}
        self._logs: weakref.WeakValueDictionary[str, TurnLog] = weakref.WeakValueDictionary()
        self._loading: dict[str, asyncio.Task[TurnLog]] = {}
        self._members: dict[str, set[Membership]] = {}
        self._dirty: dict[_Live, None] = {}
        self._kick = asyncio.Event()
        self._last_signal = 0

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(self, model_id: str | None = None) -> Session:
        """Make a session; ``model_id`` None means the server's default, resolved for each turn."""
        self._refuse_draining()
        _check_text(model_id, "model_id")
        session_id = str(uuid.uuid4())
        await self._store.create_session(session_id, model_id, now_ms())
        self.counters.sessions_created += 1
        return await self.get_session(session_id)

    async def get_session(self, session_id: str) -> Session:
        """Raises ``session_not_found``."""
        session = await self._store.get_session(_known(session_id, "session_not_found"))
        if session is None:
            raise ChatError("session_not_found")
        return msgspec.structs.replace(session, connections=len(self._members.get(session_id, ())))

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """A page of sessions, newest first. Raises ``invalid_request`` for a limit outside 1-200 or a cursor not ours."""
        if limit is None:
            limit = _LIST_LIMIT
        if not 1 <= limit <= 200:
            raise ChatError("invalid_request", "limit must be between 1 and 200.")
        before: tuple[float, str] | None = None
        if cursor:
            created_at, _, session_id = cursor.partition("_")
            try:
                before = (float(created_at), session_id)
            except ValueError:
                raise ChatError("invalid_request", "cursor is not one that this list gave.") from None
        active_since = now_ms() - self.settings.session_active_s * 1000
        sessions, active = await self._store.list_sessions(limit + 1, before, active_since)
        page = [
            msgspec.structs.replace(session, connections=len(self._members.get(session.session_id, ())))
            for session in sessions[:limit]
        ]
        more = len(sessions) > limit
        return SessionPage(
            sessions=page,
            next_cursor=f"{page[-1].created_at!r}_{page[-1].session_id}" if more else None,
            active_sessions=active,
        )

    async def list_messages(self, session_id: str) -> list[Message]:
        """All messages in order. Raises ``session_not_found``."""
        return await self._store.list_messages(_known(session_id, "session_not_found"))

    async def clear_session(self, session_id: str, origin: Membership | None = None) -> None:
        """Drop the messages, keep the logs. Raises ``session_not_found``, ``turn_in_progress``."""
        await self._store.clear_session(_known(session_id, "session_not_found"), self._owner, now_ms())
        self._tell(SessionUpdate(session_id=session_id, update_type="session_cleared"), origin)

    async def delete_session(self, session_id: str, origin: Membership | None = None) -> None:
        """Drop the session and everything in it. Raises ``session_not_found``, ``turn_in_progress``."""
        await self._store.delete_session(_known(session_id, "session_not_found"), self._owner, now_ms())
        self._tell(SessionUpdate(session_id=session_id, update_type="session_deleted"), origin)

    @contextlib.contextmanager
    def join(self, session_id: str) -> Iterator[Membership]:
        """Be a connection of a session (check first that it exists); iterate the membership for what happens in it."""
        member = Membership(session_id)
        self._members.setdefault(session_id, set()).add(member)
        try:
            yield member
        finally:
            members = self._members[session_id]
            members.discard(member)
            if not members:
                del self._members[session_id]

    def typing(self, member: Membership, typing: bool) -> None:
        """Tell the session's other connections in this process that someone types, or stopped."""
        self._tell(SessionUpdate(session_id=member.session_id, update_type="user_typing", typing=typing), member)

    def _tell(self, item: SessionUpdate | TurnBegan, origin: Membership | None = None) -> None:
        for member in self._members.get(item.session_id, ()):
            if member is not origin:
                member.put(item)

    # -- turns ------------------------------------------------------------------------------------------------------

    async def start_chat(
        self,
        message: str,
        *,
        session_id: str | None = None,
        model_id: str | None = None,
        request_id: str | None = None,
        attended: bool = True,
        origin: Membership | None = None,
    ) -> Snapshot:
        """Start a reply, or join the turn that ``request_id`` already started.

        Raises ``invalid_request``, ``session_not_found``, ``turn_in_progress``, ``idempotency_key_reused``,
        ``too_many_streams``, ``shutting_down``; then nothing was recorded. Without a session one is made.
        """
        self._check_input(message, "message")
        _check_text(model_id, "model_id")
        # Not given up when the caller is: a turn that was recorded must be generated. (gRPC cancels a handler whose client leaves.)
        return await asyncio.shield(
            self._start("chat", message, None, session_id, model_id, request_id, attended, origin)
        )

    async def start_image(
        self,
        prompt: str,
        *,
        size: str | None = None,
        session_id: str | None = None,
        request_id: str | None = None,
        attended: bool = True,
        origin: Membership | None = None,
    ) -> Snapshot:
        """Start a picture; ``size`` is ``WIDTHxHEIGHT`` in pixels. Raises as ``start_chat`` does."""
        self._check_input(prompt, "prompt")
        size = DEFAULT_SIZE if size is None else size
        self._check_size(size)
        return await asyncio.shield(self._start("image", prompt, size, session_id, None, request_id, attended, origin))

    async def _start(
        self,
        kind: Kind,
        text: str,
        size: str | None,
        session_id: str | None,
        model_id: str | None,
        request_id: str | None,
        attended: bool,
        origin: Membership | None,
    ) -> Snapshot:
        if session_id is not None:
            _known(session_id, "session_not_found")
        if request_id is not None and not _KEY.fullmatch(request_id):
            raise ChatError("invalid_request", "The idempotency key must be 1 to 255 printable ASCII characters.")
        self._refuse_draining()
        if len(self._lives) >= self.settings.max_running_turns:
            raise ChatError("too_many_streams")
        now, begun = now_ms(), time.perf_counter()
        turn_id = str(uuid.uuid4())
        model = self._chat_model.default_model if kind == "chat" else self._image_model.default_model
        started = await self._store.start_turn(
            NewTurn(
                turn_id=turn_id,
                kind=kind,
                input=text,
                session_id=session_id,
                new_session_id=str(uuid.uuid4()) if kind == "chat" and session_id is None else None,
                model_id=model_id,
                default_model=model,
                request_id=request_id,
                request_hash=_request_hash(kind, text, size, session_id, model_id),
                owner=self._owner,
                now=now,
                lease_until=now + self.settings.lease_s * 1000,
                attended=attended,
                max_context_chars=self.settings.max_context_chars,
            )
        )
        if not started.joined:
            self._begin(started, text, size, attended, origin, begun)
        row = started.turn
        return await self.get_turn(row.turn_id) if started.joined else _snapshot(row, "")

    def _begin(
        self, started: Started, text: str, size: str | None, attended: bool, origin: Membership | None, begun: float
    ) -> None:
        row = started.turn
        assert started.first is not None
        turn_log = TurnLog(row.turn_id, row.kind)
        turn_log.publish([started.first])
        live = _Live(turn_log, started, begun)
        live.attended = attended
        self._logs[row.turn_id] = turn_log
        self._lives[row.turn_id] = live
        self.counters.requests_total += 1
        self.counters.events_total += 1
        self.counters.sessions_created += started.made_session
        self.log.info(
            f"{row.kind} started",
            session=short(row.session_id),
            turn=short(row.turn_id),
            context=len(started.context),
            model=started.model,
            **({"text": text} if self._trace.text else {}),
        )
        self._trace_records([started.first])
        if row.session_id is not None:
            self._tell(TurnBegan(row.session_id, row.turn_id))
            self._message_added(row.session_id, started.message_count, origin)
        history = (*started.context, Said("user", text))
        steps = (
            self._chat_events(live, history, started.model) if size is None else self._image_events(live, text, size)
        )
        live.task = asyncio.create_task(self._produce(live, steps, origin), name=f"turn {row.turn_id}")

    async def get_turn(self, turn_id: str) -> Snapshot:
        """Raises ``turn_not_found``, ``turn_expired``."""
        found = await self._store.read_text(_known(turn_id, "turn_not_found"))
        if found is None:
            raise ChatError("turn_not_found")
        row, text = found
        if row.expired:
            raise ChatError("turn_expired")
        return _snapshot(row, text)

    async def cancel_turn(self, turn_id: str) -> Snapshot:
        """Stop a turn, wherever it is generated; its state, also when it had ended. Raises ``turn_not_found``, ``turn_expired``."""
        snapshot = await self.get_turn(turn_id)
        if snapshot.status != "running":
            return snapshot
        reader = await self.open(turn_id, snapshot.last_seq)
        live = self._lives.get(turn_id)
        if live is not None:
            live.stop("cancelled")
        else:
            await self._store.signal(self._owner, "cancel", now_ms(), turn_id=turn_id)
        with reader:
            while not reader.over:
                await reader.wait(self.settings.heartbeat_s)
        return await self.get_turn(turn_id)

    def cut_turn(self, turn_id: str) -> None:
        """End this process's streams of a turn without a terminal event, to show what a client does then."""
        turn_log = self._logs.get(_known(turn_id, "turn_not_found"))
        if turn_log is None:
            raise ChatError("turn_not_found", "Nobody reads this turn here.")
        turn_log.cut()

    async def open(self, turn_id: str, after: int) -> Reader:
        """A reader of the turn's events after seq ``after``.

        Raises ``turn_not_found``, ``turn_expired``, ``cursor_out_of_range``, ``too_many_streams``, and ``invalid_request`` for
        a negative cursor.
        """
        _known(turn_id, "turn_not_found")
        if after < 0:
            raise ChatError("invalid_request", "after must not be negative.")
        if self.counters.streams_active >= self.settings.max_streams:
            raise ChatError("too_many_streams")
        turn_log = self._logs.get(turn_id) or await self._load(turn_id)
        turn_log.last_read = time.monotonic()
        return Reader(turn_log, after, self.settings.heartbeat_s, self.counters, self.log)

    async def _load(self, turn_id: str) -> TurnLog:
        """Read a log that this process does not hold; readers that ask at the same time share one."""
        task = self._loading.get(turn_id)
        if task is None:
            task = self._loading[turn_id] = asyncio.create_task(self._read_log(turn_id))
            task.add_done_callback(lambda _: self._loading.pop(turn_id, None))
        return await asyncio.shield(task)

    async def _read_log(self, turn_id: str) -> TurnLog:
        found = await self._store.read(turn_id, 0)
        if found is None:
            raise ChatError("turn_not_found")
        row, records = found
        if row.expired:
            raise ChatError("turn_expired")
        turn_log = TurnLog(turn_id, row.kind)
        turn_log.publish(records)
        if self.draining and not turn_log.ended:
            turn_log.close()
        return self._logs.setdefault(turn_id, turn_log)

    # -- generating -------------------------------------------------------------------------------------------------

    async def _produce(self, live: _Live, steps: AsyncGenerator[FinishReason, None], origin: Membership | None) -> None:
        """Run one turn to its terminal event; whatever happens, exactly one is appended."""
        finish: FinishReason = "other"
        error: ChatError | None = None
        live.running = True
        try:
            async with aclosing(steps):
                if live.stopped is None:
                    async for reason in steps:
                        finish = reason
        except asyncio.CancelledError:
            if live.stopped is None:
                raise
        except ChatError as refusal:
            error = refusal
        except Exception:  # noqa: BLE001 - a provider may raise anything; its text must not travel
            self.log.exception("model failed") if self._trace.text else self.log.error(
                "model failed", turn=live.turn_id
            )
            error = ChatError("internal", "The model failed in an unexpected way.")
        if not live.fenced:
            self._end(live, finish, error)
            await live.committed()
        del self._lives[live.turn_id]
        await self._ended(live, error, origin)

    async def _chat_events(
        self, live: _Live, history: tuple[Said, ...], model: str
    ) -> AsyncGenerator[FinishReason, None]:
        stream = self._chat_model.stream(history, model)
        async with aclosing(stream):
            async for delta in stream:
                if delta.usage is not None:
                    live.usage = delta.usage
                if delta.text:
                    text = delta.text if delta.text.isascii() else _encodable(delta.text)
                    if not live.texts:
                        self.log.info(
                            "first token",
                            session=short(live.session_id),
                            turn=short(live.turn_id),
                            ms=_since_ms(live.begun),
                        )
                    live.texts.append(text)
                    self._append(live, Chunk(turn_id=live.turn_id, seq=live.seq + 1, at=now_ms(), text=text))
                    if len(live.records) >= _MAX_UNCOMMITTED:
                        await live.committed()
                if live.fenced:
                    return
                if delta.finish_reason is not None:
                    yield delta.finish_reason

    async def _image_events(self, live: _Live, prompt: str, size: str) -> AsyncGenerator[FinishReason, None]:
        width, height = self._check_size(size)
        stream = self._image_model.generate(prompt, width, height)
        async with aclosing(stream):
            async for part in stream:
                if part.usage is not None:
                    live.usage = part.usage
                await self._append_image(live, part)
                if live.fenced:
                    return
                if not part.preview:
                    yield "stop"
                    return
        raise ChatError("model_unavailable", "The image model ended without a picture.")

    async def _append_image(self, live: _Live, part: ImagePart) -> None:
        sha256 = hashlib.sha256(part.data).hexdigest()
        image = StoredImage(
            image_id=str(uuid.uuid4()),
            turn_id=live.turn_id,
            mime_type=part.mime_type,
            width=part.width,
            height=part.height,
            sha256=sha256,
            preview=part.preview,
            revised_prompt=part.revised_prompt,
            data=part.data,
        )
        turn_id, image_id, at = live.turn_id, image.image_id, now_ms()
        live.images.append(image)
        self._append(
            live,
            ImageStarted(
                turn_id=turn_id,
                seq=live.seq + 1,
                at=at,
                image_id=image_id,
                mime_type=part.mime_type,
                width=part.width,
                height=part.height,
                size_bytes=len(part.data),
                preview=part.preview,
            ),
        )
        for offset in range(0, len(part.data), IMAGE_CHUNK_BYTES):
            data = part.data[offset : offset + IMAGE_CHUNK_BYTES]
            self._append(
                live, ImageChunk(turn_id=turn_id, seq=live.seq + 1, at=at, image_id=image_id, offset=offset, data=data)
            )
        if not part.preview:
            live.image = image
            self._append(
                live,
                ImageCompleted(
                    turn_id=turn_id,
                    seq=live.seq + 1,
                    at=at,
                    image_id=image_id,
                    sha256=sha256,
                    revised_prompt=part.revised_prompt,
                ),
            )
        self.log.info(
            "preview" if part.preview else "picture",
            turn=short(turn_id),
            bytes=len(part.data),
            ms=_since_ms(live.begun),
        )
        await live.committed()

    def _append(self, live: _Live, event: AnyEvent) -> None:
        live.seq += 1
        live.records.append(Record.of(event))
        if live not in self._dirty:
            self._dirty[live] = None
            self._kick.set()

    def _end(self, live: _Live, finish: FinishReason, error: ChatError | None) -> None:
        """Append the terminal event that fits how the turn ended."""
        text = "".join(live.texts)
        sha256 = text_sha256(text) if live.log.kind == "chat" else (live.image.sha256 if live.image else None)
        turn_id, seq, at, chunks = live.turn_id, live.seq + 1, now_ms(), len(live.texts)
        event: TurnCompleted | TurnFailed | TurnCancelled | TurnInterrupted
        if live.stopped == "cancelled":
            event = TurnCancelled(turn_id=turn_id, seq=seq, at=at, usage=live.usage, chunks=chunks, sha256=sha256)
        elif live.stopped is not None:
            event = TurnInterrupted(turn_id=turn_id, seq=seq, at=at, chunks=chunks, sha256=sha256)
        elif error is not None:
            event = TurnFailed(
                turn_id=turn_id,
                seq=seq,
                at=at,
                code=error.code,
                message=error.message,
                retryable=error.retryable,
                usage=live.usage,
            )
        else:
            event = TurnCompleted(
                turn_id=turn_id,
                seq=seq,
                at=at,
                finish_reason=finish,
                usage=live.usage,
                chunks=chunks,
                message_count=None if live.message_count is None else live.message_count + 1,
                elapsed_ms=_since_ms(live.begun),
                sha256=sha256 or text_sha256(""),
            )
        status = TERMINAL_STATUS[Record.of(event).type]
        live.end = End(status=status, text=text, image_id=live.image.image_id if live.image else None, ended_at=at)
        self._append(live, event)

    async def _ended(self, live: _Live, error: ChatError | None, origin: Membership | None) -> None:
        """Count and tell how a turn ended; a turn that was taken away is read back from the store."""
        if live.fenced or live.end is None:
            self.log.warning("lease lost", session=short(live.session_id), turn=short(live.turn_id))
            self.counters.finished(ok=False, elapsed_ms=_since_ms(live.begun))
            with contextlib.suppress(ChatError):
                await self._catch_up(live.log)
            if not live.log.ended:
                live.log.close()
            return
        status = live.end.status
        self.counters.finished(ok=status == "completed", elapsed_ms=_since_ms(live.begun))
        self.log.info(
            f"{live.log.kind} {status}",
            session=short(live.session_id),
            turn=short(live.turn_id),
            chunks=len(live.texts),
            ms=_since_ms(live.begun),
            **({"code": error.code} if error and status == "failed" else {}),
            **({"text": live.end.text} if self._trace.text else {}),
        )
        if live.session_id and (live.end.text or live.end.image_id or status == "completed"):
            count = None if live.message_count is None else live.message_count + 1
            self._message_added(live.session_id, count, origin)

    def _message_added(self, session_id: str, count: int | None, origin: Membership | None = None) -> None:
        self._tell(SessionUpdate(session_id=session_id, update_type="message_added", message_count=count), origin)

    async def _commit_forever(self) -> None:
        """Commit what the producers appended, in groups, then show it to the readers."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            while self._dirty:
                lives = list(self._dirty)
                self._dirty.clear()
                lease_until = now_ms() + self.settings.lease_s * 1000
                batch = []
                for live in lives:
                    batch.append(
                        Append(
                            turn_id=live.turn_id,
                            owner=self._owner,
                            lease_until=lease_until,
                            records=live.records,
                            images=live.images,
                            end=live.end,
                        )
                    )
                    live.records, live.images = [], []
                results = await self._commit(batch)
                for live, entry, done in zip(lives, batch, results, strict=True):
                    if done:
                        self.counters.events_total += len(entry.records)
                        self._trace_records(entry.records)
                        live.log.publish(entry.records)
                    else:
                        live.fenced = True
                        live.records, live.images = [], []
                        live.stop("interrupted")
                    live.wake()

    async def _commit(self, batch: list[Append]) -> list[bool]:
        """Try for a while: a store that is busy for a moment must not cost an answer."""
        deadline = time.monotonic() + _COMMIT_TRIES_S
        while True:
            try:
                return await self._store.append(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other turns must go on
                if time.monotonic() > deadline:
                    self.log.error("cannot commit", why=type(error).__name__)
                    return [False] * len(batch)
                await asyncio.sleep(0.05)

    # -- other processes and time -------------------------------------------------------------------------------------

    async def _watch_forever(self) -> None:
        """Notice what other processes wrote: events of turns read here, cancels, and what happens in joined sessions."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if not (self._lives or self._members or self._remote_logs()):
                continue
            try:
                signals = await self._store.changes(self._last_signal)
                if signals is None:
                    continue
                for signal in signals:
                    self._last_signal = max(self._last_signal, signal.signal_id)
                    if signal.origin != self._owner:
                        self._take(signal)
                for turn_log in self._remote_logs():
                    await self._catch_up(turn_log)
            except ChatError as error:
                self.log.error("cannot read the store", code=error.code)
                await asyncio.sleep(1)

    def _remote_logs(self) -> list[TurnLog]:
        return [
            log
            for log in list(self._logs.values())
            if not (log.ended or log.closing) and log.turn_id not in self._lives
        ]

    async def _catch_up(self, turn_log: TurnLog) -> None:
        found = await self._store.read(turn_log.turn_id, len(turn_log.records))
        if found is None:
            turn_log.close()
            return
        # Two may catch up at once, so what the other one has published meanwhile is dropped.
        records = [record for record in found[1] if record.seq > len(turn_log.records)]
        if records:
            turn_log.publish(records)

    def _take(self, signal: Signal) -> None:
        match signal.kind:
            case "cancel":
                live = self._lives.get(signal.turn_id or "")
                if live is not None:
                    live.stop("cancelled")
            case "turn_started" if signal.session_id and signal.turn_id:
                self._tell(TurnBegan(signal.session_id, signal.turn_id))
                self._message_added(signal.session_id, signal.message_count)
            case "message_added" if signal.session_id:
                self._message_added(signal.session_id, signal.message_count)
            case "session_cleared" | "session_deleted" if signal.session_id:
                self._tell(SessionUpdate(session_id=signal.session_id, update_type=signal.kind))

    async def _keep_house_forever(self) -> None:
        """Leases, the grace period, heartbeats, other processes' orphans, old logs."""
        grace_s, lease_s = self.settings.disconnect_grace_s, self.settings.lease_s
        step_s = max(0.02, min(lease_s / 6, grace_s / 4 if grace_s else 0.05, self.settings.heartbeat_s / 4, 1.0))
        renewal_s = min(lease_s, grace_s or lease_s) / 3
        next_renewal = next_purge = 0.0
        while True:
            await asyncio.sleep(step_s)
            now = time.monotonic()
            for turn_log in list(self._logs.values()):
                turn_log.tick(now)
            try:
                if now >= next_renewal:
                    next_renewal = now + renewal_s
                    await self._renew()
                await self._leave_unread(now)
                if now >= next_purge:
                    next_purge = now + _PURGE_S
                    kept = now_ms() - self.settings.turn_retention_h * 3_600_000
                    await self._store.purge(kept, kept - _WEEK_MS, now_ms() - _SIGNAL_KEPT_MS)
            except ChatError as error:
                self.log.error("cannot keep house", code=error.code)

    async def _renew(self) -> None:
        read = [log.turn_id for log in self._remote_logs() if log.readers]
        if self._lives or read:
            await self._store.renew(self._owner, now_ms() + self.settings.lease_s * 1000, read, now_ms())
        for turn_id in await self._store.reap(now_ms()):
            self.log.warning("interrupted", turn=short(turn_id), why="its server is gone")

    async def _leave_unread(self, now: float) -> None:
        """Cancel what nobody has read for the grace period, neither here nor in another process."""
        grace_s = self.settings.disconnect_grace_s
        for live in list(self._lives.values()):
            if not live.attended or live.log.readers or now - live.log.last_read < grace_s:
                continue
            row = await self._store.get_turn(live.turn_id)
            if row is not None and now_ms() - row.last_read_at >= grace_s * 1000 and not live.log.readers:
                self.log.info("nobody reads", session=short(live.session_id), turn=short(live.turn_id))
                live.stop("cancelled")

    # -- the server as a whole ----------------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Stop well: refuse new turns, let running ones finish for ``grace_s``, interrupt the rest, send the readers away."""
        self.draining = True
        for turn_log in self._remote_logs():
            turn_log.close()
        tasks = [live.task for live in self._lives.values() if live.task is not None]
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)
        for live in list(self._lives.values()):
            live.stop("interrupted")
        tasks = [live.task for live in self._lives.values() if live.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.5)
        self.closed.set()

    def models(self) -> list[ModelInfo]:
        """The model ids one may ask for, the default marked."""
        return [ModelInfo(model, model == self._chat_model.default_model) for model in self._chat_model.models]

    def about(self) -> dict[str, str]:
        """Which provider and model are at work."""
        return {
            "provider": self._chat_model.provider,
            "model": self._chat_model.default_model,
            "image_provider": self._image_model.provider,
            "image_model": self._image_model.default_model,
            "framework": self._framework,
            "hint": ", ".join(
                f"{what}: {hint}"
                for what, hint in (("chat", self._chat_model.hint), ("images", self._image_model.hint))
                if hint
            ),
        }

    async def ready(self) -> bool:
        """Whether a new turn would be taken: not draining, and the store answers."""
        if self.draining:
            return False
        try:
            await self._store.get_turn("")
        except ChatError:
            return False
        return True

    async def stats(self) -> ServerStats:
        """What this server has counted."""
        _, active = await self._store.list_sessions(1, None, now_ms() - self.settings.session_active_s * 1000)
        counters = self.counters
        return ServerStats(
            started_at=counters.started_at,
            uptime_s=round((now_ms() - counters.started_at) / 1000, 3),
            requests_total=counters.requests_total,
            requests_succeeded=counters.requests_succeeded,
            requests_failed=counters.requests_failed,
            average_response_ms=counters.average_response_ms,
            sessions_active=active,
            sessions_created=counters.sessions_created,
            streams_active=counters.streams_active,
            connections_active=counters.connections_active,
            provider=self._chat_model.provider,
            model=self._chat_model.default_model,
            framework=self._framework,
        )

    async def get_image(self, image_id: str) -> StoredImage:
        """Raises ``image_not_found``."""
        image = await self._store.get_image(_known(image_id, "image_not_found"))
        if image is None:
            raise ChatError("image_not_found")
        return image

    # -- checks -------------------------------------------------------------------------------------------------------

    def _refuse_draining(self) -> None:
        if self.draining:
            raise ChatError("shutting_down")

    def _check_input(self, text: str, name: str) -> None:
        _check_text(text, name)
        if not text.strip():
            raise ChatError("invalid_request", f"{name} must not be empty.")
        if len(text) > self.settings.max_message_chars:
            raise ChatError("invalid_request", f"{name} is longer than {self.settings.max_message_chars} characters.")

    def _check_size(self, size: str) -> tuple[int, int]:
        match = _SIZE.fullmatch(size)
        if match is None:
            raise ChatError("invalid_request", "size must be WIDTHxHEIGHT in pixels, such as 1024x1024.")
        width, height = int(match[1]), int(match[2])
        if width * height > self.settings.max_image_pixels:
            raise ChatError("invalid_request", f"size is larger than {self.settings.max_image_pixels} pixels.")
        self._image_model.check_size(width, height)
        return width, height

    def _trace_records(self, records: list[Record]) -> None:
        if not self._trace.events:
            return
        for record in records:
            extra = {"event_json": record.stored.decode()} if self._trace.text else {"bytes": len(record.stored)}
            self.log.info("event", type=record.type, seq=record.seq, **extra)

    async def _run(self) -> None:
        self._last_signal = await self._store.last_signal()
        await self._renew()

    async def _close(self) -> None:
        for live in list(self._lives.values()):
            if live.task is not None:
                live.task.cancel()
        await self._chat_model.aclose()
        await self._image_model.aclose()
        await self._store.close()


@asynccontextmanager
async def open_service(
    settings: Settings, *, log: Log, trace: Trace | None = None, framework: str = ""
) -> AsyncIterator[ChatService]:
    """A service on the store and models that the settings name. Raises ValueError with what to set when it cannot start."""
    store = open_store(settings.store_url)
    service = ChatService(
        settings,
        store,
        open_chat_model(settings),
        open_image_model(settings),
        log=log,
        trace=trace or Trace(),
        framework=framework,
    )
    await service._run()
    tasks = [
        asyncio.create_task(work())
        for work in (service._commit_forever, service._watch_forever, service._keep_house_forever)
    ]
    try:
        yield service
    finally:
        await service.drain(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service._close()


def _snapshot(row: TurnRow, text: str) -> Snapshot:
    return Snapshot(
        turn_id=row.turn_id,
        kind=row.kind,
        session_id=row.session_id,
        status=row.status,
        last_seq=row.last_seq,
        text=text,
    )


def _request_hash(kind: str, *parts: str | None) -> str:
    return hashlib.sha256(msgspec.json.encode([kind, *parts])).hexdigest()


def _since_ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 3)


def _encodable(text: str) -> str:
    """A lone surrogate has no UTF-8; it becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _check_text(text: str | None, name: str) -> None:
    """Raise ``invalid_request`` for what cannot travel on every wire: NUL and lone surrogates."""
    if text is None:
        return
    if not text and name != "message" and name != "prompt":
        raise ChatError("invalid_request", f"{name} must not be empty.")
    if "\0" in text:
        raise ChatError("invalid_request", f"{name} must not contain NUL.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ChatError("invalid_request", f"{name} must be valid Unicode (it has a lone surrogate).") from None


def _known(identifier: str, code: str) -> str:
    """An id that could be ours; anything else is simply not found, and never reaches the store."""
    if not identifier.isascii() or not 1 <= len(identifier) <= 64 or "\0" in identifier:
        raise ChatError(code)
    return identifier
