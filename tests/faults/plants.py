"""Bugs that a test plants in a server, one at a time, and the check that must find each: they prove that the checks work."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import msgspec

from shared.chat import producer
from shared.chat.committer import Committer
from shared.chat.generation import Generation
from shared.chat.housekeeping import Housekeeping
from shared.chat.running_turn import RunningTurn, StopReason
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader, TurnLog
from shared.events import AnyEvent
from shared.reply import text_sha256
from shared.session import short_turn
from shared.store.protocol import Append, Appended, News, NewTurn, Started
from shared.store.record import Record
from shared.store.sqlite import turns
from shared.store.sqlite.journal import Row
from shared.store.sqlite.news import NewsWatch
from shared.store.sqlite.store import SqliteStore
from shared.store.sqlite.tails import Tails


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: ``plant`` puts it into this process. ``share`` of the check ``check`` on the transports ``words`` finds it.

    ``says`` is a pattern of the fault that the check reports.
    """

    name: str
    plant: Callable[[], None]
    check: str
    share: float
    says: str
    words: tuple[str, ...] = ("ndjson",)


PLANTS: dict[str, Plant] = {}


def _bug(check: str, share: float, says: str, *words: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(plant: Callable[[], None]) -> Callable[[], None]:
        name = plant.__name__.replace("_", " ")
        PLANTS[name] = Plant(name, plant, check, share, says, words or ("ndjson",))
        return plant

    return register


@_bug("kills", 0.03, r"shown and taken back|not in the store|shown otherwise than it is stored", "sse")
def shown_before_it_is_committed() -> None:
    commit = Committer._commit_group

    async def late(self: Committer, turns: list[RunningTurn]) -> None:
        # The last commit may have taken the events of a turn that was noted while it waited.
        turns = [turn for turn in turns if turn.uncommitted]
        for turn in turns:
            turn.turn_log.publish(turn.uncommitted)
            # The next commit has every record of the log after ``stored_seq``.
            turn.uncommitted = []
        await asyncio.sleep(0.3)
        await commit(self, turns)

    Committer._commit_group = late  # type: ignore[method-assign]


@_bug("hand-over", 0.1, r"twice: .* the wire gives")
def cursor_includes_what_was_seen() -> None:
    begin = Reader.__init__

    def one_less(self: Reader, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.after = max(0, self.after - 1)

    Reader.__init__ = one_less  # type: ignore[method-assign]


@_bug("hand-over", 0.1, r"is missing|hung|gives")
def cursor_skips_one() -> None:
    begin = Reader.__init__

    def one_more(self: Reader, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.after += bool(self.after)

    Reader.__init__ = one_more  # type: ignore[method-assign]


@_bug("cancels", 0.04, r"ended completed, not cancelled|a cancel took")
def cancel_is_swallowed() -> None:
    stop = RunningTurn.stop
    RunningTurn.stop = lambda self, why: None if why == "cancelled" else stop(self, why)  # type: ignore[method-assign]


@_bug("cancels", 0.04, r"a cancel took")
def cancel_lets_the_model_talk_on() -> None:
    def only_note(self: RunningTurn, why: StopReason) -> None:
        self.stopped = self.stopped or why

    RunningTurn.stop = only_note  # type: ignore[method-assign]


@_bug("sleepers", 0.05, r"ended interrupted, not completed")
def lease_is_forgotten() -> None:
    async def only_reap(self: Housekeeping) -> None:
        await self._dependencies.store.reap()

    Housekeeping._renew = only_reap  # type: ignore[method-assign]
    SqliteStore.keep_leases = lambda self, owner: None  # type: ignore[method-assign]


@_bug("events", 0.02, r"hung")
def wake_up_is_lost() -> None:
    publish = TurnLog.publish

    def without_a_wake_up(self: TurnLog, records: Iterable[Record]) -> None:
        new = list(records)
        ends = bool(new) and new[-1].terminal
        waits, self._waits = self._waits, {} if ends else self._waits
        publish(self, new)
        if ends:
            self._waits = waits

    TurnLog.publish = without_a_wake_up  # type: ignore[method-assign]
    # The heartbeat is planted away as well, because it would repair the bug in the end.
    TurnLog.tick = lambda self, now: None  # type: ignore[method-assign]


@_bug("hand-over", 0.1, r"hung|late", "ndjson", "sse")
def news_of_other_processes_are_missed() -> None:
    look, calls = NewsWatch._look, itertools.count()

    def deaf(self: NewsWatch, *args: Any) -> list[News]:
        return look(self, *args) if next(calls) < 5 else []

    NewsWatch._look = deaf  # type: ignore[method-assign,assignment]


@_bug("events", 0.01, r"lost its line")
def last_event_is_dropped() -> None:
    async def short(self: Reader) -> list[Record]:
        records = await read(self)
        return records[:-1] if records and records[-1].terminal else records

    read = Reader.__anext__
    Reader.__anext__ = short  # type: ignore[method-assign]


@_bug("duplicates", 0.06, r"generated: .* turns")
def key_is_ignored() -> None:
    start = turns.start_turn

    def keyless(connection: apsw.Connection, new: NewTurn, *rest: Any) -> Started:
        return start(connection, NewTurn(**{**_fields(new), "request_id": None}), *rest)

    turns.start_turn = keyless  # type: ignore[assignment]


@_bug("duplicates", 0.06, r"another body with the same key was not refused")
def body_is_not_compared() -> None:
    start = turns.start_turn

    def trusting(connection: apsw.Connection, new: NewTurn, *rest: Any) -> Started:
        return start(connection, NewTurn(**{**_fields(new), "request_hash": "same"}), *rest)

    turns.start_turn = trusting  # type: ignore[assignment]


@_bug("events", 0.01, r"its model ran 2 times")
def model_runs_twice() -> None:
    begin = Generation.begin

    def twice(self: Generation, *args: Any) -> None:
        begin(self, *args)
        self._dependencies.logger.info("chat started", session="-", turn=short_turn(args[0].turn.turn_id))

    Generation.begin = twice  # type: ignore[method-assign,assignment]


@_bug("events", 0.01, r"ends: .* 2 terminal events")
def turn_ends_twice() -> None:
    append = Committer.append

    def twice(self: Committer, turn: RunningTurn, event: AnyEvent) -> None:
        append(self, turn, event)
        if turn.end is not None:
            append(self, turn, msgspec.structs.replace(event, seq=turn.seq + 1))

    Committer.append = twice  # type: ignore[method-assign]


@_bug("events", 0.01, r"sha256|hashed")
def another_text_is_hashed() -> None:
    producer.text_sha256 = lambda text: text_sha256(text.strip() + "\n")  # type: ignore[attr-defined]


@_bug("hand-over", 0.1, r"hash|wire gives", "ndjson", "sse")
def replay_is_trimmed() -> None:
    load = Record.load.__func__  # type: ignore[attr-defined]

    def trimmed(cls: type[Record], turn_id: str, seq: int, stored: bytes, image: Any) -> Record:
        record: Record = load(cls, turn_id, seq, stored.replace(b'\\n"', b'"'), image)
        return record

    Record.load = classmethod(trimmed)  # type: ignore[method-assign,assignment]


@_bug("kills", 0.015, r"hung|never ended", "sse")
def orphans_are_never_reaped() -> None:
    async def nothing(self: SqliteStore) -> list[str]:
        return []

    SqliteStore.reap = nothing  # type: ignore[method-assign]


@_bug("sleepers", 0.05, r"ended completed, not interrupted|different logs", "sse")
def fence_is_ignored() -> None:
    append = turns.append

    def anyway(
        connection: apsw.Connection, entry: Append, lease_until: float, before: Sequence[Row] | None = None
    ) -> Appended:
        connection.execute(
            "UPDATE turns SET status = 'running', owner = ? WHERE turn_id = ?", (entry.owner, entry.turn_id)
        )
        last = connection.execute("SELECT last_seq FROM turns WHERE turn_id = ?", (entry.turn_id,)).fetchone()
        connection.execute("UPDATE turns SET last_seq = ? WHERE turn_id = ?", (entry.records[0].seq - 1, entry.turn_id))
        if last is not None and last[0] >= entry.records[0].seq:
            connection.execute(
                "DELETE FROM segments WHERE turn_id = ? AND last_seq >= ?", (entry.turn_id, entry.records[0].seq)
            )
        return append(connection, entry, lease_until)

    turns.append = anyway
    # The journal has a fence of its own, so everything goes to the logs.
    Tails.takes = lambda self, entry: False  # type: ignore[method-assign]
    # A process learns of a new owner from its appends and from its renewals: the bug ignores both.
    Committer._fence = lambda self, turn: None  # type: ignore[method-assign]


@_bug("leaving", 0.1, r"cancelled .* after it was left|ended cancelled, not completed")
def leaving_is_cancelling() -> None:
    leave = Reader.__exit__

    def cancel(self: Reader, *exc: object) -> None:
        leave(self, *exc)
        if not self.complete:
            self._turn_log.last_read = -1e9
            self._turn_log.left = True  # type: ignore[attr-defined]

    async def at_once(self: Housekeeping) -> None:
        for turn in list(self._generation.running.values()):
            if getattr(turn.turn_log, "left", False) and not turn.turn_log.readers:
                turn.stop("cancelled")

    Reader.__exit__ = cancel  # type: ignore[method-assign]
    Housekeeping._cancel_unread = at_once  # type: ignore[method-assign]


@_bug("leaving", 0.1, r"completed .* after it was left")
def nobody_is_missed() -> None:
    async def never(self: Housekeeping) -> None:
        pass

    Housekeeping._cancel_unread = never  # type: ignore[method-assign]


@_bug("restarts", 0.1, r"ended interrupted, not completed", "ndjson", "websocket")
def drain_waits_for_nobody() -> None:
    drain = ChatService.drain

    async def at_once(self: ChatService, grace_s: float) -> None:
        await drain(self, 0)

    ChatService.drain = at_once  # type: ignore[method-assign]


@_bug("restarts", 0.1, r"left without a last word", "ndjson", "websocket")
def drain_says_no_last_word() -> None:
    async def silent(self: Generation, grace_s: float) -> None:
        if grace_s:
            await self._wait(grace_s)
        self.abandon()

    Generation.finish = silent  # type: ignore[method-assign]


def _fields(new: NewTurn) -> dict[str, Any]:
    return {name: getattr(new, name) for name in NewTurn.__dataclass_fields__}


def names() -> Sequence[str]:
    """The names of all bugs."""
    return list(PLANTS)
