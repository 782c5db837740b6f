"""Bugs to be planted in a server, one at a time, and the check that has to find each: the proof that the checks bite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from shared.chat import generation
from shared.chat.generation import Generation, RunningTurn
from shared.chat.service import ChatService
from shared.chat.turn_log import Reader, TurnLog
from shared.chat.upkeep import Upkeep
from shared.events import now_ms
from shared.reply import text_sha256
from shared.store import sqlite
from shared.store.protocol import Append, NewTurn, Signal, Started
from shared.store.record import Record
from shared.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: ``plant`` puts it into this process; a ``share`` of the check ``kind`` on ``words`` finds it.

    ``says`` is in what the check blames: it must be found for what it is.
    """

    name: str
    plant: Callable[[], None]
    kind: str
    share: float
    says: str
    words: tuple[str, ...] = ("ndjson",)


PLANTS: dict[str, Plant] = {}


def _bug(kind: str, share: float, says: str, *words: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(plant: Callable[[], None]) -> Callable[[], None]:
        name = plant.__name__.replace("_", " ")
        PLANTS[name] = Plant(name, plant, kind, share, says, words or ("ndjson",))
        return plant

    return register


def _publish_once(log: TurnLog, records: Iterable[Record]) -> None:
    news = [record for record in records if record.seq > len(log.records)]
    log.records.extend(news)
    log.ended = bool(log.records) and log.records[-1].terminal
    log._wake()


@_bug("kills", 0.015, r"not in the store", "sse")
def shown_before_it_is_committed() -> None:
    commit = Generation._commit

    async def late(self: Generation, batch: list[Append]) -> list[bool]:
        for entry in batch:
            live = self.running.get(entry.turn_id)
            if live is not None:
                live.log.publish(entry.records)
        await asyncio.sleep(0.3)
        return await commit(self, batch)

    Generation._commit = late  # type: ignore[method-assign]
    TurnLog.publish = _publish_once  # type: ignore[method-assign,assignment]


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
    def only_note(self: RunningTurn, why: str) -> None:
        self.stopped = self.stopped or why

    RunningTurn.stop = only_note  # type: ignore[method-assign]


@_bug("sleepers", 0.05, r"ended interrupted, not completed")
def lease_is_forgotten() -> None:
    async def only_reap(self: Upkeep) -> None:
        await self._store.reap(now_ms())

    Upkeep.renew = only_reap  # type: ignore[method-assign]
    SqliteStore.keep_leases = lambda self, owner, lease_s: None  # type: ignore[method-assign]


@_bug("events", 0.02, r"hung")
def wake_up_is_lost() -> None:
    wake = TurnLog._wake
    TurnLog._wake = lambda self: None if self.ended else wake(self)  # type: ignore[method-assign]
    # Without the heartbeat that would heal it in the end.
    TurnLog.tick = lambda self, now: None  # type: ignore[method-assign]


@_bug("hand-over", 0.1, r"hung|late", "ndjson", "sse")
def news_of_other_processes_are_missed() -> None:
    changes, calls = SqliteStore.changes, itertools.count()

    async def deaf(self: SqliteStore, after: int) -> list[Signal] | None:
        return await changes(self, after) if next(calls) < 5 else None

    SqliteStore.changes = deaf  # type: ignore[method-assign]


@_bug("events", 0.01, r"lost its line")
def last_event_is_dropped() -> None:
    async def short(self: Reader) -> list[Record]:
        records = await read(self)
        return records[:-1] if records and records[-1].terminal else records

    read = Reader.__anext__
    Reader.__anext__ = short  # type: ignore[method-assign]


@_bug("duplicates", 0.06, r"generated: .* turns")
def key_is_ignored() -> None:
    start = sqlite._start_turn

    def keyless(c: apsw.Connection, new: NewTurn) -> Started:
        return start(c, NewTurn(**{**_fields(new), "request_id": None}))

    sqlite._start_turn = keyless


@_bug("duplicates", 0.06, r"another body with the same key was not refused")
def body_is_not_compared() -> None:
    start = sqlite._start_turn

    def trusting(c: apsw.Connection, new: NewTurn) -> Started:
        return start(c, NewTurn(**{**_fields(new), "request_hash": "same"}))

    sqlite._start_turn = trusting


@_bug("events", 0.01, r"its model ran 2 times")
def model_runs_twice() -> None:
    begin = Generation.begin

    def twice(self: Generation, *args: Any) -> None:
        begin(self, *args)
        self._log.info("chat started", session="-", turn=args[0].turn.turn_id[:8])

    Generation.begin = twice  # type: ignore[method-assign,assignment]


@_bug("events", 0.01, r"ends: .* 2 terminal events")
def turn_ends_twice() -> None:
    end = Generation._end

    def twice(self: Generation, live: RunningTurn, *args: Any) -> None:
        end(self, live, *args)
        end(self, live, *args)

    Generation._end = twice  # type: ignore[method-assign,assignment]


@_bug("events", 0.01, r"sha256|hashed")
def another_text_is_hashed() -> None:
    generation.text_sha256 = lambda text: text_sha256(text.strip() + "\n")  # type: ignore[attr-defined]


@_bug("hand-over", 0.1, r"hash|wire gives", "ndjson", "sse")
def replay_is_trimmed() -> None:
    load = Record.load.__func__  # type: ignore[attr-defined]

    def trimmed(cls: type[Record], turn_id: str, seq: int, stored: bytes, image: Any) -> Record:
        record: Record = load(cls, turn_id, seq, stored.replace(b'\\n"', b'"'), image)
        return record

    Record.load = classmethod(trimmed)  # type: ignore[method-assign,assignment]


@_bug("kills", 0.015, r"hung|never ended", "sse")
def orphans_are_never_reaped() -> None:
    async def nothing(self: SqliteStore, now: float) -> list[str]:
        return []

    SqliteStore.reap = nothing  # type: ignore[method-assign]


@_bug("sleepers", 0.05, r"ended completed, not interrupted|different logs", "sse")
def fence_is_ignored() -> None:
    append = sqlite._append

    def anyway(c: apsw.Connection, entry: Append) -> bool:
        c.execute("UPDATE turns SET status = 'running', owner = ? WHERE turn_id = ?", (entry.owner, entry.turn_id))
        last = c.execute("SELECT last_seq FROM turns WHERE turn_id = ?", (entry.turn_id,)).fetchone()
        c.execute("UPDATE turns SET last_seq = ? WHERE turn_id = ?", (entry.records[0].seq - 1, entry.turn_id))
        if last is not None and last[0] >= entry.records[0].seq:
            c.execute("DELETE FROM segments WHERE turn_id = ? AND last_seq >= ?", (entry.turn_id, entry.records[0].seq))
        return append(c, entry)

    sqlite._append = anyway


@_bug("leaving", 0.1, r"cancelled .* after it was left|ended cancelled, not completed")
def leaving_is_cancelling() -> None:
    leave = Reader.__exit__

    def cancel(self: Reader, *exc: object) -> None:
        leave(self, *exc)
        if not self.complete:
            self._log.last_read = -1e9
            self._log.left = True  # type: ignore[attr-defined]

    async def at_once(self: Upkeep, now: float) -> None:
        for live in list(self._generation.running.values()):
            if getattr(live.log, "left", False) and not live.log.readers:
                live.stop("cancelled")

    Reader.__exit__ = cancel  # type: ignore[method-assign]
    Upkeep._leave_unread = at_once  # type: ignore[method-assign]


@_bug("leaving", 0.1, r"completed .* after it was left")
def nobody_is_missed() -> None:
    async def never(self: Upkeep, now: float) -> None:
        pass

    Upkeep._leave_unread = never  # type: ignore[method-assign]


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
    """All of them."""
    return list(PLANTS)
