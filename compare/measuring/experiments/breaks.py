"""The experiments that break an answer in its middle: a client cancels the turn, or the relay cuts the connection."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

from compare.measuring.experiments.run import Run, Scale
from compare.measuring.lanes import RunningLane
from compare.measuring.recording import TurnSpec, count_generated, now_ms, record_turn, warm_up
from compare.measuring.turns import TurnRecord
from protocols import TRANSPORTS
from shared.events import Chunk, TurnCancelled, TurnStarted
from shared.reply import Reply

_AFTER_A_CUT = ("lost", "twice", "again", "detect", "back", "e2e")
_CANCEL_AFTER = 5


async def cancels(run: Run) -> None:
    """Cancel is pressed while the answer streams."""
    scale = run.scale
    run.describe(
        "cancel",
        "Stopping",
        f"Cancel pressed after {_CANCEL_AFTER} tokens (REST: after as long), {run.rounds(scale.cancels)}, lanes side by side, "
        "no relay. REST has to ask first which turn runs.",
        ("cancel", "cancel_seen"),
    )
    for repeat in range(scale.cancels):
        run.say(f"{repeat + 1} of {scale.cancels}")
        number = run.round_of(repeat)
        await asyncio.gather(*(_cancel(run, run.direct(name), number) for name in run.order(repeat)))


async def _cancel(run: Run, lane: RunningLane, number: int) -> None:
    async with lane.client() as client, lane.client() as other:
        session = await client.create_session()
        pressed_ms: list[float] = []

        async def press(turn_id: str | None, wait_s: float = 0.0) -> None:
            await asyncio.sleep(wait_s)
            pressed_ms.append(now_ms())
            if turn_id is None:
                turn_id = (await other.get_session(session.session_id)).running_turn_id
            if turn_id is not None:
                await other.cancel(turn_id)

        pressing: asyncio.Task[None] | None = None
        if not lane.lane.tokens:
            pressing = asyncio.create_task(press(None, _CANCEL_AFTER / run.rate))
        turn_id: str | None = None
        stopped_ms: float | None = None
        tokens = 0
        async with aclosing(client.chat("/tokens 500 stop me", session_id=session.session_id)) as items:
            async for item in items:
                if isinstance(item, TurnStarted | Reply):
                    turn_id = item.turn_id
                tokens += isinstance(item, Chunk)
                if tokens == _CANCEL_AFTER and pressing is None:
                    pressing = asyncio.create_task(press(turn_id))
                if isinstance(item, TurnCancelled):
                    stopped_ms = item.at
        seen_ms = now_ms()
        if pressing is not None:
            await pressing
        if stopped_ms is None and turn_id is not None:
            stopped_ms = await _cancelled_at(lane, turn_id)
        if pressed_ms and stopped_ms is not None:
            run.sample("cancel", lane.lane.name, number, "cancel", stopped_ms - pressed_ms[0])
            run.sample("cancel", lane.lane.name, number, "cancel_seen", seen_ms - pressed_ms[0])


async def _cancelled_at(lane: RunningLane, turn_id: str) -> float | None:
    """When the turn was cancelled (epoch ms), from its log: a whole reply does not say it."""
    async with TRANSPORTS["rest"].client(lane.address, poll=True) as reader, aclosing(reader.read(turn_id)) as log:
        return next((item.at for item in [item async for item in log] if isinstance(item, TurnCancelled)), None)


def cut_tokens(scale: Scale) -> int:
    """The length of the answers that are cut."""
    return max(30, scale.tokens // 2)


async def cuts(run: Run) -> None:
    """The line is cut at a random token, with resume and without it."""
    scale = run.scale
    dice = random.Random(run.seed * 1000 + run.pass_number)
    tokens = cut_tokens(scale)
    for resume, experiment, what in (
        (True, "cut, with resume", "The client comes back with its cursor."),
        (False, "cut, without resume", "The client asks the same again, as a new question."),
    ):
        run.describe(
            experiment,
            experiment.capitalize(),
            f"The relay cuts the connection at a random token of {tokens}, {run.rounds(scale.cuts)}, lanes side by side. {what}",
            _AFTER_A_CUT,
        )
        for repeat in range(scale.cuts):
            run.say(f"{'with' if resume else 'without'} resume, {repeat + 1} of {scale.cuts}")
            spec = TurnSpec(
                experiment=experiment,
                tokens=tokens,
                rate=run.rate,
                cut_after=dice.randrange(2, tokens - 2),
                resume=resume,
            )
            number = run.round_of(repeat)
            run.turns += await asyncio.gather(*(_cut_turn(run.lanes[name], spec, number) for name in run.order(repeat)))


async def _cut_turn(lane: RunningLane, spec: TurnSpec, number: int) -> TurnRecord:
    async with lane.client(resume=spec.resume) as client:
        await warm_up(lane, client)
        turn = await record_turn(lane, client, spec, number=number)
    await count_generated(lane, turn)
    return turn
