"""Appending to the logs of this process's turns: small entries by way of the journal, the others at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from shared.store.protocol import Append, Appended, Damaged
from shared.store.sqlite import journal, turns
from shared.store.sqlite.tails import Move, Tails
from shared.store.sqlite.worker import InlineWorker, Operation, Outcome, Worker

# An operation, and what is done with its result or its error.
_Job = tuple[Operation, Callable[[Any, Exception | None], object]]
_MAX_FAILED_TRIMS = 2


class Appending:
    """The commits of one store object, one after the other; see ``Store.append``.

    ``run_each`` runs operations in one transaction, and raises when the store accepts nothing.
    """

    def __init__(
        self,
        writer: Worker | InlineWorker,
        reader: Worker | InlineWorker,
        run_each: Callable[[Sequence[Operation]], Awaitable[list[Outcome]]],
    ) -> None:
        self.tails = Tails()
        self.fence = journal.Fence()
        self._writer = writer
        self._reader = reader
        self._run_each = run_each
        self._lock = asyncio.Lock()
        self._damaged = False
        self._failed_trims = 0

    async def append(self, batch: Sequence[Append], now_ms: float, lease_until: float) -> list[Appended]:
        """Append in one commit. ``now_ms`` never goes back; the leases of the turns end at ``lease_until`` (epoch ms)."""
        async with self._lock:
            self.tails.now_ms = now_ms
            small: list[Append] = []
            large: list[Append] = []
            for entry in batch:
                (small if self.tails.takes(entry) else large).append(entry)
            moves = self.tails.due({entry.turn_id for entry in large})
            answers: dict[int, Appended] = {}
            try:
                await self._commit(small, large, moves, lease_until, answers)
            except BaseException:
                self.tails.failed({entry.turn_id for entry in batch} | {move.turn_id for move in moves})
                raise
            return [answers[id(entry)] for entry in batch]

    async def move_old(self, now_ms: float, lease_until: float) -> None:
        """Move what has been in the journal for long, also where nothing is appended any more."""
        async with self._lock:
            self.tails.now_ms = now_ms
            await self._move_all(self.tails.due(()), lease_until)

    async def _move_all(self, moves: Sequence[Move], lease_until: float) -> None:
        if not moves:
            return
        try:
            await self._run([self._move(move, lease_until) for move in moves])
        except BaseException:
            self.tails.failed({move.turn_id for move in moves})
            raise

    async def _commit(
        self,
        small: Sequence[Append],
        large: Sequence[Append],
        moves: Sequence[Move],
        lease_until: float,
        answers: dict[int, Appended],
    ) -> None:
        jobs = [self._move(move, lease_until) for move in moves]
        if small:
            jobs.append(self._add(small, answers))
        if trim_before := self.tails.trim_before():
            jobs.append((partial(self.fence.trim, before=trim_before), self._trimmed))
        jobs += [self._to_log(entry, lease_until, answers) for entry in large]
        await self._run(jobs)
        refused = [entry for entry in small if id(entry) not in answers]
        if refused:
            # ``turns.append`` tells why the entry was refused, or appends it though the journal is damaged.
            await self._run([self._to_log(entry, lease_until, answers) for entry in refused])
        if self._damaged:
            await self._mend(lease_until)

    async def _run(self, jobs: Sequence[_Job]) -> None:
        outcomes = await self._run_each([operation for operation, _ in jobs])
        for (_, done), outcome in zip(jobs, outcomes, strict=True):
            done(*outcome)

    def _add(self, entries: Sequence[Append], answers: dict[int, Appended]) -> _Job:
        def done(numbers: list[int] | None, error: Exception | None) -> None:
            self._damaged = self._damaged or error is not None
            for entry, number in zip(entries, numbers or (), strict=error is None):
                if number:
                    self.tails.added(entry, number)
                    answers[id(entry)] = Appended(True, entry.records[-1].seq)

        return partial(self.fence.add, entries=entries), done

    def _move(self, move: Move, lease_until: float) -> _Job:
        operation = partial(
            journal.move, turn_id=move.turn_id, owner=move.owner, rows=move.rows, lease_until=lease_until
        )
        return operation, partial(self.tails.move_done, move)

    def _trimmed(self, result: object, error: Exception | None) -> None:
        self._failed_trims = self._failed_trims + 1 if error is not None else 0
        self._damaged = self._damaged or error is not None

    def _to_log(self, entry: Append, lease_until: float, answers: dict[int, Appended]) -> _Job:
        operation = partial(turns.append, entry=entry, lease_until=lease_until, before=self.tails.rows_before(entry))
        return operation, partial(self._answer, entry, answers)

    def _answer(
        self, entry: Append, answers: dict[int, Appended], appended: Appended | None, error: Exception | None
    ) -> None:
        answers[id(entry)] = appended = appended or Appended(False, 0, "damaged")
        if appended.done:
            self.tails.moved(entry.turn_id, entry.owner, appended.last_seq, ended=entry.end is not None)
        elif appended.why in ("fenced", "gone"):
            self.tails.forget(entry.turn_id)

    async def mend(self, lease_until: float) -> bool:
        """Begin a new journal if a page of the journal is damaged. Returns whether it was."""
        async with self._lock:
            return await self._mend(lease_until)

    async def _mend(self, lease_until: float) -> bool:
        """What this process has in the damaged journal goes to the logs, from memory; what else can be read goes to the new one.

        A journal that can be read is put aside too, when its oldest rows could not be dropped twice.
        """
        self._damaged = False
        root = await self._reader.run(journal.root)
        try:
            await self._reader.run(journal.check_journal)
        except Damaged:
            self._failed_trims = _MAX_FAILED_TRIMS
        if self._failed_trims < _MAX_FAILED_TRIMS:
            return False
        self._failed_trims = 0
        await self._move_all(self.tails.all(), lease_until)
        readable = await self._reader.run(journal.readable)
        put_aside = partial(
            journal.put_aside, damaged_root=root, readable=readable, newest_number=self.tails.newest_number
        )
        await self._writer.run(put_aside, write=True)
        return True
