"""The chat itself: the one object that the servers of all transports call.

``start_chat`` and ``start_image`` refuse a request before the first byte, or record a turn and generate it. ``open``
reads the log of any turn from any cursor: a turn that is generated here, one that another process generates, or one
that ended long ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from shared.chat.checks import (
    DEFAULT_SIZE,
    check_input,
    check_key,
    check_text,
    known_id,
    parse_message_cursor,
    parse_page,
    parse_size,
)
from shared.chat.committer import Committer
from shared.chat.counters import Counters
from shared.chat.dependencies import Dependencies
from shared.chat.generation import Generation
from shared.chat.housekeeping import Housekeeping
from shared.chat.members import Members, Membership
from shared.chat.readiness import Readiness
from shared.chat.request import TurnRequest
from shared.chat.turn_log import Reader, TurnLog
from shared.chat.turn_logs import TurnLogs
from shared.chat.watch import Watch
from shared.config import Settings
from shared.errors import ChatError
from shared.events import now_ms
from shared.ids import ordered_id, scattered_id
from shared.images.model import ImageModel
from shared.images.open import open_image_model
from shared.llm.model import ChatModel
from shared.llm.open import open_chat_model
from shared.logger import Logger, Trace
from shared.reply import Snapshot
from shared.session import MessagePage, ModelInfo, Session, SessionPage, SessionUpdate, short
from shared.stats import ServerStats
from shared.store.open import open_store
from shared.store.protocol import Damaged, NewTurn, Options, Started, Store, StoredImage, TurnRow
from shared.store.texts import cut_text

_LIST_LIMIT = 50
MAX_LIST_LIMIT = 200
MAX_MESSAGES_LIMIT = 500
# A service that stops waits at least this long for the turns that are being recorded.
_RECORDING_S = 1.0
_DAMAGE_TRIES = 20


class ChatService:
    """One chat for any number of transports and processes on one store; use ``open_service``.

    An ``origin`` is the membership of the connection that asks. That connection gets no hint about its own actions.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        chat_model: ChatModel,
        image_model: ImageModel,
        *,
        logger: Logger,
        trace: Trace,
        framework: str,
    ) -> None:
        self.settings = settings
        self.logger = logger
        self.counters = Counters()
        self.draining = False
        self.closed = asyncio.Event()
        self._store = store
        self._chat_model = chat_model
        self._image_model = image_model
        self._framework = framework
        self._trace = trace
        self._owner = str(uuid.uuid4())
        self._members = Members()
        self._turn_logs = TurnLogs(store)
        self._readiness = Readiness(store)
        self._recording: set[asyncio.Task[Reader]] = set()
        dependencies = Dependencies(
            settings=settings,
            store=store,
            chat_model=chat_model,
            image_model=image_model,
            owner=self._owner,
            members=self._members,
            turn_logs=self._turn_logs,
            counters=self.counters,
            logger=logger,
            trace=trace,
            readiness=self._readiness,
        )
        self._committer = Committer(dependencies)
        self._generation = Generation(dependencies, self._committer)
        self._watch = Watch(dependencies, self._generation)
        self._housekeeping = Housekeeping(dependencies, self._generation, self._committer)
        self._loops: list[asyncio.Task[None]] = []

    async def create_session(self, model_id: str | None = None) -> Session:
        """Make a session. Without ``model_id`` each of its turns uses the server's default model.

        Raises ``invalid_request`` for an empty model id, ``shutting_down``.
        """
        self._refuse_draining()
        check_text(model_id, "model_id")
        session_id = str(uuid.uuid4())
        await self._store.create_session(session_id, model_id, now_ms())
        self.counters.sessions_created += 1
        self._trace_stored("session created", session_id)
        return await self.get_session(session_id)

    async def get_session(self, session_id: str) -> Session:
        """One session. Raises ``session_not_found``."""
        session = await self._store.get_session(known_id(session_id, "session_not_found"))
        if session is None:
            raise ChatError("session_not_found")
        return self._with_local_facts(session)

    async def list_sessions(self, limit: int | None = None, cursor: str | None = None) -> SessionPage:
        """A page of sessions, newest first. Raises ``invalid_request`` for a limit outside 1-200 or an unknown cursor."""
        if limit is None:
            limit = _LIST_LIMIT
        if not 1 <= limit <= MAX_LIST_LIMIT:
            raise ChatError("invalid_request", f"limit must be between 1 and {MAX_LIST_LIMIT}.")
        before = parse_page(cursor) if cursor else None
        active_since = now_ms() - self.settings.session_active_s * 1000
        sessions, active = await self._store.list_sessions(limit + 1, before, active_since)
        page = [self._with_local_facts(session) for session in sessions[:limit]]
        more = len(sessions) > limit
        return SessionPage(
            sessions=page,
            next_cursor=f"{page[-1].created_at!r}_{page[-1].session_id}" if more else None,
            active_sessions=active,
        )

    def _with_local_facts(self, session: Session) -> Session:
        """The session with its connections in this process and with this server's limit of the context."""
        return msgspec.structs.replace(
            session,
            connections=self._members.count(session.session_id),
            max_context_chars=self.settings.max_context_chars,
        )

    async def list_messages(self, session_id: str, limit: int | None = None, cursor: str | None = None) -> MessagePage:
        """A page of a session's messages, in order. A page ends before its texts pass 3 MiB.

        Raises ``session_not_found``, and ``invalid_request`` for a limit outside 1-500 or an unknown cursor, such as
        one of a session that was cleared meanwhile.
        """
        if limit is None:
            limit = MAX_MESSAGES_LIMIT
        if not 1 <= limit <= MAX_MESSAGES_LIMIT:
            raise ChatError("invalid_request", f"limit must be between 1 and {MAX_MESSAGES_LIMIT}.")
        after = parse_message_cursor(cursor) if cursor else None
        messages, more = await self._store.list_messages(known_id(session_id, "session_not_found"), limit, after)
        return MessagePage(messages=messages, next_cursor=messages[-1].message_id if more else None)

    async def clear_session(self, session_id: str, origin: Membership | None = None) -> None:
        """Drop the messages of a session and keep the logs. Raises ``session_not_found``, ``turn_in_progress``."""
        await self._store.clear_session(known_id(session_id, "session_not_found"), self._owner, now_ms())
        self._trace_stored("session cleared", session_id)
        self._members.tell(SessionUpdate(session_id=session_id, update_type="session_cleared"), origin=origin)

    async def delete_session(self, session_id: str, origin: Membership | None = None) -> None:
        """Drop a session with its turns and their logs. Raises ``session_not_found``, ``turn_in_progress``."""
        await self._store.delete_session(known_id(session_id, "session_not_found"), self._owner, now_ms())
        self._trace_stored("session deleted", session_id)
        self._members.tell(SessionUpdate(session_id=session_id, update_type="session_deleted"), origin=origin)

    def _trace_stored(self, what: str, session_id: str) -> None:
        """With ``--trace``: log a change of a session that has been committed."""
        if self._trace.events:
            self.logger.info("stored", what=what, session=short(session_id))

    async def join(self, session_id: str, member: Membership | None = None) -> Membership:
        """Join a connection to a session that exists; iterate over the membership for what happens there from now on."""
        member = member or Membership(session_id)
        # The connection is added first, so that it misses nothing, and then skips the signals that are older than this
        # moment.
        self._members.add(member, session_id)
        try:
            member.after_signal = await self._store.last_signal()
        except BaseException:
            self._members.remove(member)
            raise
        return member

    def leave(self, member: Membership) -> None:
        """Remove a connection from its session."""
        self._members.remove(member)

    async def typing(self, member: Membership, typing: bool) -> None:
        """Tell the session's other connections that someone types, or stopped typing; in other processes where the store can."""
        update = SessionUpdate(session_id=member.session_id, update_type="user_typing", typing=typing)
        self._members.tell(update, origin=member)
        with contextlib.suppress(ChatError):
            await self._store.typing(member.session_id, self._owner, typing)

    async def start_chat(
        self,
        message: str,
        *,
        session_id: str | None = None,
        model_id: str | None = None,
        request_id: str | None = None,
        attended: bool = True,
        origin: Membership | None = None,
    ) -> Reader:
        """Start a reply, or join the turn that ``request_id`` started before.

        Returns a reader of the turn's first event on.

        Without ``session_id`` the service makes a session. Raises ``invalid_request``, ``session_not_found``,
        ``turn_in_progress``, ``idempotency_key_reused``, ``too_many_streams``, ``shutting_down``; then nothing was
        recorded.
        """
        check_input(message, "message", self.settings.max_message_chars)
        check_text(model_id, "model_id")
        return await self._start(
            TurnRequest(
                kind="chat",
                text=message,
                session_id=session_id,
                model_id=model_id,
                request_id=request_id,
                attended=attended,
                origin=origin,
            )
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
    ) -> Reader:
        """Start a picture; ``size`` is ``WIDTHxHEIGHT`` in pixels. Returns and raises as ``start_chat`` does."""
        check_input(prompt, "prompt", self.settings.max_message_chars)
        size = DEFAULT_SIZE if size is None else size
        self._image_model.check_size(*parse_size(size, self.settings.max_image_pixels))
        return await self._start(
            TurnRequest(
                kind="image",
                text=prompt,
                size=size,
                session_id=session_id,
                request_id=request_id,
                attended=attended,
                origin=origin,
            )
        )

    async def _start(self, request: TurnRequest) -> Reader:
        """Record a turn and begin to generate it.

        Recording goes on when the caller is cancelled (gRPC cancels a handler whose client leaves), because a recorded
        turn must be generated.
        """
        recording = asyncio.create_task(self._record(request))
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)
        return await asyncio.shield(recording)

    async def _record(self, request: TurnRequest) -> Reader:
        if request.session_id is not None:
            known_id(request.session_id, "session_not_found")
        check_key(request.request_id)
        self._refuse_draining()
        # The client that asks also reads, except for an unattended turn. The limits are checked before anything is
        # recorded.
        no_reader = request.attended and self.counters.streams_active >= self.settings.max_streams
        if no_reader or len(self._generation.running) >= self.settings.max_running_turns:
            raise ChatError("too_many_streams")
        begun_s = time.perf_counter()
        started = await self._record_turn(request)
        if started.joined:
            return self._reader(await self._turn_logs.open(started.turn.turn_id), 0)
        return self._reader(self._generation.begin(started, request, begun_s), 0)

    async def _record_turn(self, request: TurnRequest) -> Started:
        is_chat = request.kind == "chat"
        for tries_left in reversed(range(_DAMAGE_TRIES)):
            first_try = tries_left == _DAMAGE_TRIES - 1
            new = NewTurn(
                turn_id=ordered_id() if first_try else scattered_id(),
                kind=request.kind,
                input=request.text,
                session_id=request.session_id,
                new_session_id=str(uuid.uuid4()) if is_chat and request.session_id is None else None,
                model_id=request.model_id,
                default_model=(self._chat_model if is_chat else self._image_model).default_model,
                request_id=request.request_id,
                request_hash=request.hash,
                owner=self._owner,
                max_context_chars=self.settings.max_context_chars,
            )
            try:
                started = await self._store.start_turn(new)
            except Damaged:
                # A part of the store is damaged. Another id may belong to another part.
                if not tries_left:
                    raise
            except ChatError as error:
                if error.code == "storage_unavailable":
                    self._readiness.refused(new_turn=True)
                raise
            else:
                self._readiness.wrote(new_turn=True)
                return started
        raise AssertionError("unreachable")

    async def get_turn(self, turn_id: str) -> Snapshot:
        """A turn as it is now. Raises ``turn_not_found``, ``turn_expired``."""
        found = await self._store.read_text(known_id(turn_id, "turn_not_found"))
        if found is None:
            raise ChatError("turn_not_found")
        row, text = found
        if row.expired:
            raise ChatError("turn_expired")
        return _snapshot(row, text)

    async def snapshot(self, reader: Reader) -> Snapshot:
        """A turn as it is now, for the answer to the request that started or joined the turn."""
        if reader.last_seq > 1:
            return await self.get_turn(reader.turn_id)
        return Snapshot(
            turn_id=reader.turn_id,
            kind=reader.kind,
            session_id=reader.session_id,
            status="running",
            last_seq=1,
            text="",
        )

    async def cancel_turn(self, turn_id: str) -> Snapshot:
        """Stop a turn that any process generates. Returns the turn after its end. A turn that has ended stays as it is.

        Raises ``turn_not_found``, ``turn_expired``; ``shutting_down`` when this server stops before the turn has ended;
        ``storage_unavailable`` when the end cannot be stored. A repeated cancel gets the same answer.
        """
        snapshot = await self.get_turn(turn_id)
        if snapshot.status != "running":
            return snapshot
        # ``open`` would refuse the cancel when too many streams are open.
        reader = await self._open(turn_id, snapshot.last_seq)
        if not self._generation.stop(turn_id, "cancelled"):
            await self._store.cancel(turn_id, self._owner)
        deadline = time.monotonic() + self.settings.store_patience_s + 2 * self.settings.lease_s
        with reader:
            while not reader.over and time.monotonic() < deadline:
                await reader.wait(self.settings.heartbeat_s)
        snapshot = await self.get_turn(turn_id)
        if snapshot.status == "running":
            raise ChatError(reader.closed_for or "storage_unavailable")
        return snapshot

    def cut_turn(self, turn_id: str) -> None:
        """End this process's streams of a turn without a terminal event, to show how a client comes back."""
        turn_log = self._turn_logs.get(known_id(turn_id, "turn_not_found"))
        if turn_log is None:
            raise ChatError("turn_not_found", "No stream of this turn is open in this process; open one, then cut it.")
        turn_log.cut()

    async def open(self, turn_id: str, after: int, epoch: int = 0, *, rewinds: bool = False) -> Reader:
        """A reader of the turn's events after seq ``after``, as the turn was in ``epoch``.

        For a cursor beyond the log of a running turn, this method waits for the log; see ``TurnLogs.reach``. Raises
        ``turn_not_found``, ``turn_expired``, ``cursor_out_of_range``, ``too_many_streams``, and ``invalid_request`` for
        a negative cursor; also ``cursor_lost``, except where the caller ``rewinds`` a reader whose ``lost`` is set.
        """
        if self.counters.streams_active >= self.settings.max_streams:
            raise ChatError("too_many_streams")
        reader = await self._open(turn_id, after, epoch)
        if not rewinds:
            reader.check_cursor()
        return reader

    async def _open(self, turn_id: str, after: int, epoch: int = 0) -> Reader:
        known_id(turn_id, "turn_not_found")
        for name, number in (("after", after), ("epoch", epoch)):
            if number < 0:
                raise ChatError("invalid_request", f"{name} must not be negative; 0 is the beginning.")
        turn_log = await self._turn_logs.open(turn_id)
        lost = turn_log.loses(after, epoch)
        if after > len(turn_log.records) and not turn_log.over:
            await self._turn_logs.reach(turn_log, after, self.settings.lease_s)
            turn_log = await self._turn_logs.open(turn_id)
            lost = turn_log.loses(after, epoch) or (turn_log.ended and after > len(turn_log.records))
        return self._reader(turn_log, after, lost=lost)

    def _reader(self, turn_log: TurnLog, after: int, *, lost: bool = False) -> Reader:
        turn_log.last_read = time.monotonic()
        return Reader(
            turn_log,
            after,
            self.settings.heartbeat_s,
            self.counters,
            self.logger,
            lost=turn_log.lost if lost else None,
        )

    async def get_image(self, image_id: str) -> StoredImage:
        """A picture with its bytes. Raises ``image_not_found``."""
        image = await self._store.get_image(known_id(image_id, "image_not_found"))
        if image is None:
            raise ChatError("image_not_found")
        return image

    def models(self) -> list[ModelInfo]:
        """The model ids that a client may ask for, the default marked."""
        return [ModelInfo(model, model == self._chat_model.default_model) for model in self._chat_model.models]

    def about(self) -> dict[str, str]:
        """The providers and models of this server, and how to get better ones."""
        hints = {"chat": self._chat_model.hint, "images": self._image_model.hint}
        return {
            "provider": self._chat_model.provider,
            "model": self._chat_model.default_model,
            "image_provider": self._image_model.provider,
            "image_model": self._image_model.default_model,
            "framework": self._framework,
            "hint": ", ".join(f"{what}: {hint}" for what, hint in hints.items() if hint),
        }

    @property
    def committed(self) -> str:
        """What a committed event survives on this server's store."""
        return self._store.committed

    async def ready(self) -> bool:
        """Whether a new turn would be accepted: no drain has begun, the store accepts writes, and the loops work."""
        return not self.draining and await self._readiness.ready()

    async def stats(self) -> ServerStats:
        """What this server has counted since it started."""
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

    async def drain(self, grace_s: float) -> None:
        """Stop well: refuse new turns, let running ones finish for ``grace_s``, interrupt the rest, end the other streams."""
        self.draining = True
        self._turn_logs.drain()
        # A turn that the store is recording runs as soon as it is recorded, and then has the same grace period.
        if self._recording:
            await asyncio.wait(set(self._recording), timeout=max(grace_s, _RECORDING_S))
        await self._generation.finish(grace_s)
        self.closed.set()

    def _refuse_draining(self) -> None:
        if self.draining:
            raise ChatError("shutting_down")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commit, watch and keep house for as long as the block runs; then stop at once and close everything."""
        await self.begin()
        try:
            yield
        finally:
            await self.drain(0)
            await self.abandon()
            await self._chat_model.aclose()
            await self._image_model.aclose()
            await self._store.close()

    async def begin(self) -> None:
        """Start the loops that commit, watch and keep house."""
        await self._housekeeping.begin()
        forever = (self._committer.commit_forever, self._watch.watch_forever, self._housekeeping.keep_house_forever)
        self._loops = [asyncio.create_task(loop()) for loop in forever]

    async def abandon(self) -> None:
        """Stop the loops and every turn where it is, without a terminal event, as the death of the process would."""
        turns = self._generation.abandon()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, *turns, return_exceptions=True)


@asynccontextmanager
async def open_service(
    settings: Settings, *, logger: Logger, trace: Trace | None = None, framework: str = ""
) -> AsyncIterator[ChatService]:
    """A service on the store and models that the settings name. Raises ValueError with what to set when it cannot start."""
    store = open_store(
        settings.store_url,
        Options(
            lease_s=settings.lease_s,
            retention_s=settings.turn_retention_h * 3600,
            password=settings.store_password.get_secret_value() if settings.store_password else None,
            ack_replicas=settings.store_ack_replicas,
        ),
    )
    if store.notice:
        logger.warning("the store was damaged", why=store.notice)
    service = ChatService(
        settings,
        store,
        open_chat_model(settings),
        open_image_model(settings),
        logger=logger,
        trace=trace or Trace(),
        framework=framework,
    )
    async with service.running():
        yield service


def _snapshot(row: TurnRow, text: str) -> Snapshot:
    text, truncated = cut_text(text)
    return Snapshot(
        turn_id=row.turn_id,
        kind=row.kind,
        session_id=row.session_id,
        status=row.status,
        last_seq=row.last_seq,
        text=text,
        truncated=truncated,
    )
