"""Committing: one task stores the events of all running turns, and shows an event to readers only when it is in the
store.

What arrives while one commit runs goes into the next one, so that one stream pays microseconds and a thousand streams
share a commit.
"""

from __future__ import annotations

import asyncio
import time

from shared.chat.dependencies import Dependencies
from shared.chat.running_turn import RunningTurn
from shared.events import AnyEvent
from shared.session import short
from shared.store.protocol import Append, Appended

_TRIES_S = 2.0
_RETRY_S = 0.05


class Committer:
    """Run ``commit_forever`` beside the producers.

    ``dropped`` are the turns that the store refused to take. Housekeeping ends their leases, so that another process
    gives them a terminal event.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self.dropped: set[str] = set()
        self._dependencies = dependencies
        self._uncommitted: dict[RunningTurn, None] = {}
        self._appended = asyncio.Event()

    def append(self, turn: RunningTurn, event: AnyEvent) -> None:
        """Append an event to a turn and have it committed with the next group."""
        turn.append(event)
        if turn not in self._uncommitted:
            self._uncommitted[turn] = None
            self._appended.set()

    async def commit_forever(self) -> None:
        """Commit what the producers append, in groups, then publish it to the readers."""
        while True:
            await self._appended.wait()
            self._appended.clear()
            while self._uncommitted:
                turns = list(self._uncommitted)
                self._uncommitted.clear()
                await self._commit_group(turns)
                # A reference that is kept while this task waits would keep ended turns in memory.
                del turns

    async def _commit_group(self, turns: list[RunningTurn]) -> None:
        batch = [turn.next_append(self._dependencies.owner) for turn in turns]
        for turn, entry, appended in zip(turns, batch, await self._store(batch), strict=True):
            if appended.done:
                self._published(turn, entry)
            elif appended.why == "behind":
                turn.take_back(entry, appended.last_seq)
                self._again(turn, appended.last_seq)
            else:
                self._fence(turn)
            if appended.cancel:
                turn.stop("cancelled")
            turn.commit_done()

    def _published(self, turn: RunningTurn, entry: Append) -> None:
        new = [record for record in entry.records if record.seq > len(turn.turn_log.records)]
        turn.stored_seq = entry.records[-1].seq
        self._dependencies.counters.events_total += len(new)
        self._dependencies.trace_records(new)
        turn.turn_log.publish(new)

    def _again(self, turn: RunningTurn, last_seq: int) -> None:
        """Commit again what the store has lost of a turn: the same events with the same seqs, so no reader can tell."""
        self._dependencies.logger.warning(
            "the store went back", turn=short(turn.turn_id), from_seq=len(turn.turn_log.records), to_seq=last_seq
        )
        turn.stored_seq = last_seq
        self._uncommitted[turn] = None
        self._appended.set()

    def _fence(self, turn: RunningTurn) -> None:
        turn.fence()
        self._uncommitted.pop(turn, None)

    def compare(self, turn: RunningTurn, committed_seq: int, standing: Appended) -> None:
        """Compare a turn with where it stands in the store; ``committed_seq`` was in the store before that was asked.

        A model that is silent appends nothing, and would otherwise not learn of a cancel, a new owner or a loss.
        """
        if turn.end is not None or turn.fenced:
            return
        if not standing.done:
            self._fence(turn)
        elif standing.last_seq < committed_seq:
            self._again(turn, standing.last_seq)
        if standing.cancel:
            turn.stop("cancelled")

    async def _store(self, batch: list[Append]) -> list[Appended]:
        """Store a group, with tries for a while; then turn by turn, so that a turn that cannot be stored costs no other one.

        A try repeats the same entries: events that come meanwhile wait, so that the store knows a repeat from a gap.
        """
        deadline = time.monotonic() + _TRIES_S
        while time.monotonic() < deadline:
            try:
                return await self._dependencies.store.append(batch)
            except Exception:  # noqa: BLE001 - whatever the store raises, the other turns go on
                await asyncio.sleep(_RETRY_S)
        return [await self._store_alone(entry) for entry in batch]

    async def _store_alone(self, entry: Append) -> Appended:
        try:
            return (await self._dependencies.store.append([entry]))[0]
        except Exception as error:  # noqa: BLE001 - whatever the store raises, the other turns go on
            self._dependencies.logger.error("cannot commit", turn=short(entry.turn_id), why=type(error).__name__)
            self.dropped.add(entry.turn_id)
            return Appended(False, 0, "fenced")
