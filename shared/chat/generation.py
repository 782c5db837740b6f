"""Generating turns: one producer task a turn reads the model and appends to the turn's log; one task commits for all of them.

An event is committed to the store before any reader sees it; what arrives while one commit runs goes into the next, so that one
stream pays microseconds and a thousand streams share a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from shared.chat.checks import parse_size
from shared.chat.chunk_texts import ChunkTexts
from shared.chat.counters import Counters
from shared.chat.members import Members, Membership
from shared.chat.request import TurnRequest
from shared.chat.turn_log import TurnLog
from shared.chat.turn_logs import TurnLogs
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
    Thinking,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    Usage,
    now_ms,
)
from shared.images.model import ImageModel, ImagePart
from shared.llm.model import ChatModel, ContextMessage
from shared.logger import Logger, Trace, short
from shared.reply import text_sha256
from shared.session import TurnBegan
from shared.store.protocol import Append, End, Started, Store, StoredImage
from shared.store.record import Record

# A model that never waits would keep the event loop: after so many uncommitted events its producer waits for the commit.
_MAX_UNCOMMITTED = 64
_COMMIT_TRIES_S = 2.0
_LAST_WORDS_S = 1.5


class RunningTurn:
    """A turn that this process generates: its log, what waits for the next commit, and why it was stopped, if it was."""

    def __init__(self, log: TurnLog, started: Started, default_s: float) -> None:
        self.log = log
        self.turn_id = log.turn_id
        self.session_id = started.turn.session_id
        self.message_count = started.message_count
        self.started_at = started.turn.last_read_at
        self.begun = default_s
        self.seq = 1
        self.thinking = False
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


class Generation:
    """The turns that this process generates; run ``commit_forever`` beside them.

    ``dropped`` are turns that the store would not take: their leases are to be let go, so that they get an end.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        chat_model: ChatModel,
        image_model: ImageModel,
        *,
        owner: str,
        logs: TurnLogs,
        members: Members,
        counters: Counters,
        log: Logger,
        trace: Trace,
    ) -> None:
        self.running: dict[str, RunningTurn] = {}
        self.dropped: set[str] = set()
        self._settings = settings
        self._store = store
        self._chat_model = chat_model
        self._image_model = image_model
        self._owner = owner
        self._logs = logs
        self._members = members
        self._counters = counters
        self._log = log
        self._trace = trace
        self._dirty: dict[RunningTurn, None] = {}
        self._kick = asyncio.Event()

    def begin(self, started: Started, request: TurnRequest, begun: float) -> TurnLog:
        """Generate a turn that the store has just recorded; its log. ``begun``: time.perf_counter() when the request came."""
        row = started.turn
        assert started.first is not None
        turn_log = TurnLog(row.turn_id, row.kind, row.session_id)
        turn_log.publish([started.first])
        live = RunningTurn(turn_log, started, begun)
        live.attended = request.attended
        self._logs.generate(turn_log)
        self.running[row.turn_id] = live
        self._counters.requests_total += 1
        self._counters.events_total += 1
        self._counters.sessions_created += started.made_session
        self._log.info(
            f"{row.kind} started",
            session=short(row.session_id),
            turn=short(row.turn_id),
            context=len(started.context),
            model=started.model,
            **({"text": request.text} if self._trace.text else {}),
        )
        self._trace_records([started.first])
        if row.session_id is not None:
            self._members.tell(TurnBegan(row.session_id, row.turn_id))
            self._members.message_added(row.session_id, started.message_count, request.origin)
        if row.kind == "chat":
            history = (*started.context, ContextMessage("user", request.text))
            steps = self._chat_events(live, history, started.model)
        else:
            assert request.size is not None
            steps = self._image_events(live, request.text, request.size)
        live.task = asyncio.create_task(self._produce(live, steps, request.origin), name=f"turn {row.turn_id}")
        return turn_log

    async def _produce(
        self, live: RunningTurn, steps: AsyncGenerator[FinishReason, None], origin: Membership | None
    ) -> None:
        """Run one turn to its terminal event; whatever happens, exactly one is appended."""
        finish: FinishReason = "other"
        error: ChatError | None = None
        live.running = True
        try:
            async with aclosing(steps):
                if live.stopped is None:
                    self._trace_model(live, "model asked")
                    async for reason in steps:
                        finish = reason
        except asyncio.CancelledError:
            if live.stopped is None:
                raise
        except ChatError as refusal:
            # Its traceback holds these frames, and they the log, for as long as the garbage collector likes.
            error = refusal.with_traceback(None)
        except Exception:  # noqa: BLE001 - a provider may raise anything; its text must not travel
            self._log.exception("model failed") if self._trace.text else self._log.error(
                "model failed", turn=live.turn_id
            )
            error = ChatError("internal", "The model failed in an unexpected way.")
        self._trace_model(live, "model done", how=live.stopped or (error.code if error else finish))
        if not live.fenced:
            self._end(live, finish, error)
            await live.committed()
        del self.running[live.turn_id]
        self._logs.release(live.log)
        await self._ended(live, error, origin)

    async def _chat_events(
        self, live: RunningTurn, history: tuple[ContextMessage, ...], model: str
    ) -> AsyncGenerator[FinishReason, None]:
        stream = self._chat_model.stream(history, model)
        texts = ChunkTexts()
        try:
            async with aclosing(stream):
                async for delta in stream:
                    if delta.usage is not None:
                        live.usage = delta.usage
                    if delta.thought and not live.thinking and not live.texts:
                        live.thinking = True
                        self._append(live, Thinking(turn_id=live.turn_id, seq=live.seq + 1, at=now_ms()))
                    for text in texts.add(delta.text):
                        self._append_chunk(live, text)
                        if len(live.records) >= _MAX_UNCOMMITTED:
                            await live.committed()
                    if live.fenced:
                        return
                    if delta.finish_reason is not None:
                        yield delta.finish_reason
        finally:
            if not live.fenced:
                for text in texts.rest():
                    self._append_chunk(live, text)

    def _append_chunk(self, live: RunningTurn, text: str) -> None:
        if not live.texts:
            self._log.info(
                "first token", session=short(live.session_id), turn=short(live.turn_id), ms=since_ms(live.begun)
            )
        live.texts.append(text)
        self._append(live, Chunk(turn_id=live.turn_id, seq=live.seq + 1, at=now_ms(), text=text))

    async def _image_events(self, live: RunningTurn, prompt: str, size: str) -> AsyncGenerator[FinishReason, None]:
        width, height = parse_size(size, self._settings.max_image_pixels)
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

    async def _append_image(self, live: RunningTurn, part: ImagePart) -> None:
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
        self._log.info(
            "preview" if part.preview else "picture",
            turn=short(turn_id),
            bytes=len(part.data),
            ms=since_ms(live.begun),
        )
        await live.committed()

    def _append(self, live: RunningTurn, event: AnyEvent) -> None:
        live.seq += 1
        live.records.append(Record.of(event))
        if live not in self._dirty:
            self._dirty[live] = None
            self._kick.set()

    def _end(self, live: RunningTurn, finish: FinishReason, error: ChatError | None) -> None:
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
                elapsed_ms=since_ms(live.begun),
                sha256=sha256 or text_sha256(""),
            )
        status = TERMINAL_STATUS[Record.of(event).type]
        live.end = End(status=status, text=text, image_id=live.image.image_id if live.image else None, ended_at=at)
        self._append(live, event)

    async def _ended(self, live: RunningTurn, error: ChatError | None, origin: Membership | None) -> None:
        """Count and tell how a turn ended; a turn that was taken away is read back from the store."""
        if live.fenced or live.end is None:
            self._log.warning("lease lost", session=short(live.session_id), turn=short(live.turn_id))
            self._counters.finished(ok=False, elapsed_ms=since_ms(live.begun))
            # Its readers follow it from the store from now on, to the end that someone else gives it.
            with contextlib.suppress(ChatError):
                await self._logs.catch_up(live.log)
            return
        status = live.end.status
        self._counters.finished(ok=status == "completed", elapsed_ms=since_ms(live.begun))
        self._log.info(
            f"{live.log.kind} {status}",
            session=short(live.session_id),
            turn=short(live.turn_id),
            chunks=len(live.texts),
            ms=since_ms(live.begun),
            **({"code": error.code} if error and status == "failed" else {}),
            **({"text": live.end.text} if self._trace.text else {}),
        )
        if live.session_id and (live.end.text or live.end.image_id or status == "completed"):
            count = None if live.message_count is None else live.message_count + 1
            self._members.message_added(live.session_id, count, origin)

    async def commit_forever(self) -> None:
        """Commit what the producers appended, in groups, then show it to the readers."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            while self._dirty:
                running = list(self._dirty)
                self._dirty.clear()
                await self._commit_group(running)
                # In hand while it waits for the next one, a turn that has ended would stay in memory, and be read from there.
                del running

    async def _commit_group(self, running: list[RunningTurn]) -> None:
        lease_until = now_ms() + self._settings.lease_s * 1000
        batch = []
        for live in running:
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
        for live, entry, done in zip(running, batch, results, strict=True):
            if done:
                self._counters.events_total += len(entry.records)
                self._trace_records(entry.records)
                live.log.publish(entry.records)
            else:
                live.fenced = True
                live.records, live.images = [], []
                self._dirty.pop(live, None)
                live.stop("interrupted")
            live.wake()

    async def _commit(self, batch: list[Append]) -> list[bool]:
        """Try for a while: a store that is busy for a moment must not cost an answer. Then alone: no turn may cost another one."""
        deadline = time.monotonic() + _COMMIT_TRIES_S
        while time.monotonic() < deadline:
            try:
                return await self._store.append(batch)
            except Exception:  # noqa: BLE001 - whatever it is, the other turns must go on
                await asyncio.sleep(0.05)
        return [await self._commit_alone(entry) for entry in batch]

    async def _commit_alone(self, entry: Append) -> bool:
        try:
            return (await self._store.append([entry]))[0]
        except Exception as error:  # noqa: BLE001 - as above
            self._log.error("cannot commit", turn=short(entry.turn_id), why=type(error).__name__)
            self.dropped.add(entry.turn_id)
            return False

    def _trace_model(self, live: RunningTurn, what: str, **more: str) -> None:
        if self._trace.events:
            self._log.info(what, turn=short(live.turn_id), **more)

    def _trace_records(self, records: list[Record]) -> None:
        """An event that has been committed, and when it was appended (``at``, in epoch ms)."""
        if not self._trace.events:
            return
        for record in records:
            extra = {"event_json": record.stored.decode()} if self._trace.text else {"bytes": len(record.stored)}
            self._log.info(
                "event", turn=short(record.turn_id), type=record.type, seq=record.seq, at=record.event.at, **extra
            )

    def stop(self, turn_id: str, why: str) -> bool:
        """Stop a turn at once (``cancelled`` or ``interrupted``); False when it is not generated here."""
        live = self.running.get(turn_id)
        if live is None:
            return False
        live.stop(why)
        return True

    async def finish(self, grace_s: float) -> None:
        """Let the running turns end by themselves for a time, then interrupt the rest, and wait for their last words."""
        if grace_s > 0:
            await self._wait(grace_s)
        for live in list(self.running.values()):
            live.stop("interrupted")
        await self._wait(_LAST_WORDS_S)

    async def _wait(self, timeout_s: float) -> None:
        tasks = [live.task for live in self.running.values() if live.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def abandon(self) -> None:
        """Drop what did not end; the store interrupts it when its lease is over."""
        for live in list(self.running.values()):
            if live.task is not None:
                live.task.cancel()


def since_ms(begun: float) -> float:
    """Milliseconds since a time.perf_counter()."""
    return round((time.perf_counter() - begun) * 1000, 3)
