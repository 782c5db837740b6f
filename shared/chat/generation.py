"""Generating turns: each turn has one task that reads the model. The task depends on no client and on no reader."""

from __future__ import annotations

import asyncio
import contextlib

from shared.chat.committer import Committer
from shared.chat.dependencies import Dependencies
from shared.chat.ended_turns import EndedTurns
from shared.chat.producer import Producer
from shared.chat.request import TurnRequest
from shared.chat.running_turn import RunningTurn, StopReason
from shared.chat.turn_log import TurnLog
from shared.errors import ChatError
from shared.session import TurnBegan, short, short_turn
from shared.store.protocol import Started

_LAST_EVENTS_S = 1.5


class Generation:
    """The turns that this process generates, by turn id in ``running``.

    ``ended`` has the turns that ended lately, where the store may lose their ends.
    """

    def __init__(self, dependencies: Dependencies, committer: Committer) -> None:
        self.running: dict[str, RunningTurn] = {}
        self.ended = EndedTurns()
        self._dependencies = dependencies
        self._committer = committer
        self._producer = Producer(dependencies, committer)

    def begin(self, started: Started, request: TurnRequest, begun_s: float) -> TurnLog:
        """Generate a turn that the store has just recorded; ``begun_s`` is time.perf_counter() when the request came."""
        row = started.turn
        assert started.first is not None
        turn_log = TurnLog(row.turn_id, row.kind, row.session_id)
        turn_log.publish([started.first])
        turn = RunningTurn(turn_log, started, request, begun_s)
        self._dependencies.turn_logs.generate(turn_log)
        self.running[row.turn_id] = turn
        # The task is made before any line that might raise: a recorded turn without a producer would never end.
        turn.task = asyncio.create_task(self._generate(turn, started), name=f"turn {row.turn_id}")
        self._tell_begun(turn, started)
        return turn_log

    def _tell_begun(self, turn: RunningTurn, started: Started) -> None:
        counters, members, trace = self._dependencies.counters, self._dependencies.members, self._dependencies.trace
        counters.requests_total += 1
        counters.events_total += 1
        counters.sessions_created += started.made_session
        self._dependencies.logger.info(
            f"{turn.request.kind} started",
            session=short(turn.session_id),
            turn=short_turn(turn.turn_id),
            context=len(started.context),
            model=started.model,
            **({"text": turn.request.text} if trace.text else {}),
        )
        self._dependencies.trace_records(turn.turn_log.records)
        if turn.session_id is not None:
            members.tell(TurnBegan(turn.session_id, turn.turn_id))
            members.message_added(turn.session_id, started.message_count, origin=turn.request.origin)

    async def _generate(self, turn: RunningTurn, started: Started) -> None:
        error: ChatError | None = None
        try:
            error = await self._producer.run(turn, started)
        except Exception:  # noqa: BLE001 - whatever failed here, the turn must get an end from another process
            turn.fence()
            self._committer.dropped.add(turn.turn_id)
        finally:
            del self.running[turn.turn_id]
            if turn.end is not None and not turn.fenced and self._dependencies.store.goes_back:
                self.ended.add(turn)
            self._dependencies.turn_logs.release(turn.turn_log)
        await self._tell_ended(turn, error)

    async def _tell_ended(self, turn: RunningTurn, error: ChatError | None) -> None:
        """Count and log how a turn ended, and tell the session's members. The end of a fenced turn is read from the store."""
        counters, logger, trace = self._dependencies.counters, self._dependencies.logger, self._dependencies.trace
        ids = {"session": short(turn.session_id), "turn": short_turn(turn.turn_id)}
        if turn.fenced or turn.end is None:
            logger.warning("lease lost", **ids)
            counters.finished(ok=False, elapsed_ms=turn.elapsed_ms)
            with contextlib.suppress(ChatError):
                await self._dependencies.turn_logs.follow(turn.turn_log)
            return
        end = turn.end
        counters.finished(ok=end.status == "completed", elapsed_ms=turn.elapsed_ms)
        logger.info(
            f"{turn.request.kind} {end.status}",
            **ids,
            chunks=len(turn.texts),
            ms=turn.elapsed_ms,
            **({"code": error.code} if error and end.status == "failed" else {}),
            **({"cause": error.cause} if error and error.cause and end.status == "failed" else {}),
            **({"text": end.text} if trace.text else {}),
        )
        if turn.session_id and (end.text or end.image_id or end.status == "completed"):
            count = None if turn.message_count is None else turn.message_count + 1
            self._dependencies.members.message_added(turn.session_id, count, origin=turn.request.origin)

    def stop(self, turn_id: str, why: StopReason) -> bool:
        """Stop a turn at once; False when this process does not generate it."""
        turn = self.running.get(turn_id)
        if turn is None:
            return False
        turn.stop(why)
        return True

    async def finish(self, grace_s: float) -> None:
        """Give the turns ``grace_s`` seconds to end, then interrupt the rest and wait for their terminal events."""
        if grace_s > 0:
            await self._wait(grace_s)
        for turn in list(self.running.values()):
            turn.stop("interrupted")
        await self._wait(_LAST_EVENTS_S)

    async def _wait(self, timeout_s: float) -> None:
        tasks = [turn.task for turn in self.running.values() if turn.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def abandon(self) -> list[asyncio.Task[None]]:
        """Cancel the tasks of all turns, and return the tasks.

        Another process interrupts these turns when their leases are over.
        """
        tasks = [turn.task for turn in self.running.values() if turn.task is not None]
        for task in tasks:
            task.cancel()
        return tasks
