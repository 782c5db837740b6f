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
from shared.session import short_turn
from shared.store.protocol import Append, Appended

_RETRY_S = 0.05
_LONGEST_RETRY_S = 1.0


class Committer:
    """Run ``commit_forever`` beside the producers.

    ``dropped`` are the turns that this process has given up. Housekeeping ends their leases, so that these turns get a
    terminal event as soon as the store accepts it.
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
                try:
                    await self._commit_group(turns)
                except Exception as error:  # noqa: BLE001 - whatever failed, the other turns go on
                    self._dependencies.readiness.loop_failed("commit")
                    for turn in turns:
                        self._drop(turn, type(error).__name__)
                        turn.commit_done()
                # A reference that is kept while this task waits would keep ended turns in memory.
                del turns

    async def _commit_group(self, turns: list[RunningTurn]) -> None:
        batch = [turn.next_append(self._dependencies.owner) for turn in turns]
        outcomes = await self._store(batch)
        for number, (turn, entry) in enumerate(zip(turns, batch, strict=True)):
            if outcomes is None:
                self._drop(turn, "the store refuses writes")
            else:
                self._apply(turn, entry, outcomes[number])
            turn.commit_done()

    def _apply(self, turn: RunningTurn, entry: Append, appended: Appended) -> None:
        if appended.done:
            self._published(turn, entry)
        elif appended.why == "behind":
            turn.commit_again(entry, appended.last_seq)
            self._again(turn, appended.last_seq)
        elif appended.why == "damaged":
            self._drop(turn, "the store is damaged")
        else:
            self._fence(turn)
        if appended.cancel:
            turn.stop("cancelled")

    def _published(self, turn: RunningTurn, entry: Append) -> None:
        known, new = len(turn.turn_log.records), entry.records
        if new[0].seq <= known:
            new = [record for record in new if record.seq > known]
        turn.stored_seq = entry.records[-1].seq
        self._dependencies.counters.events_total += len(new)
        self._dependencies.trace_records(new)
        turn.turn_log.publish(new)

    def _again(self, turn: RunningTurn, last_seq: int) -> None:
        """Commit again the events that the store has lost: the same events with the same seqs, so readers see no difference."""
        self._dependencies.logger.warning(
            "the store went back", turn=short_turn(turn.turn_id), from_seq=len(turn.turn_log.records), to_seq=last_seq
        )
        turn.stored_seq = last_seq
        self._uncommitted[turn] = None
        self._appended.set()

    def _fence(self, turn: RunningTurn) -> None:
        turn.fence()
        self._uncommitted.pop(turn, None)

    def compare(self, turn: RunningTurn, committed_seq: int, standing: Appended) -> None:
        """Compare a turn with its last seq in the store. The store had ``committed_seq`` before it gave that last seq.

        Nothing is committed while the model is silent, so no commit would show a cancel, a new owner or a loss.
        """
        if turn.end is not None or turn.fenced:
            return
        if not standing.done:
            self._fence(turn)
        elif standing.last_seq < committed_seq:
            self._again(turn, standing.last_seq)
        if standing.cancel:
            turn.stop("cancelled")

    def append_again(self, turn: RunningTurn, standing: Appended) -> None:
        """Commit again the last events of an ended turn, which is running by what the store says."""
        if standing.done and standing.last_seq < turn.seq:
            self._again(turn, standing.last_seq)

    def _drop(self, turn: RunningTurn, why: str) -> None:
        """Give up a turn that the store refuses, and end its streams. Their clients resume, here or at another server."""
        self._dependencies.logger.error("cannot commit", turn=short_turn(turn.turn_id), why=why)
        self.dropped.add(turn.turn_id)
        self._fence(turn)
        turn.turn_log.close("storage_unavailable")

    async def _store(self, batch: list[Append]) -> list[Appended] | None:
        """Store a group. Returns the outcome of each entry; None when nothing was accepted for STORE_PATIENCE_S.

        Every try sends the same entries, and events that are appended meanwhile wait. So the store can tell a repeat
        from a gap.
        """
        store, readiness = self._dependencies.store, self._dependencies.readiness
        deadline = time.monotonic() + self._dependencies.settings.store_patience_s
        delay_s = _RETRY_S
        while True:
            try:
                outcomes = await store.append(batch)
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the other turns go on
                readiness.refused()
                if time.monotonic() >= deadline:
                    return None
                if delay_s == _RETRY_S:
                    self._dependencies.logger.warning("the store refuses writes", why=type(error).__name__)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_RETRY_S)
            else:
                readiness.wrote()
                return outcomes
