"""Requests that are repeated with their key, and cancels: from any transport, at any moment."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from functools import partial

from compare.measuring.lanes import LANES, Lane
from shared.client.protocol import ChatClient
from shared.errors import ChatError
from shared.events import TurnCancelled
from shared.reply import Snapshot
from tests.faults.harness import (
    Plan,
    Shown,
    Totals,
    World,
    audit,
    expected,
    judge,
    spread,
    timed,
)
from tests.faults.lines import Job

DUPLICATES = 500
CANCELS = 500
# With LONG tokens no cancel comes too late, with SHORT tokens many do.
LONG, SHORT = 5000, 300
# A cancel must be answered within this time on a busy machine too.
AT_ONCE_S = 3.0


async def duplicates(world: World, plan: Plan) -> Totals:
    """A key is used again: at once, after the end, from another transport, after a restart, and with another body."""
    totals = Totals("duplicates", plan.seed)
    shown: list[Shown] = []
    lanes = plan.lanes
    before_restart: list[tuple[Lane, str, Shown]] = []

    def check_same(first: Shown, second: Shown, where: str) -> None:
        judge(totals, second, where)
        if second.turn_id != first.turn_id:
            totals.blame("generated", f"{where}: two turns")
        if first.events and second.events and first.events != second.events:
            totals.blame("other", f"{where}: the replay differs")

    async def ask(lane: Lane, asked: str, key: str, start_after: Shown | None = None) -> Shown:
        one = Shown(asked)
        shown.append(one)
        async with aclosing(world.client(lane)) as client:
            await one.follow(client.chat(asked, request_id=key))
        return one

    async def run(nth: int) -> None:
        dice = plan.random("duplicates", nth)
        lane, other = lanes[nth % len(lanes)], dice.choice(lanes)
        asked = f"/tokens 60 duplicate {nth}"
        key = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        how = ("together", "after", "elsewhere", "other body", "after a restart")[nth // len(lanes) % 5]
        totals.notes[how] += 1
        if how == "together":
            first, *rest = await asyncio.gather(*(ask(one, asked, key) for one in (lane, other, lane)))
            judge(totals, first, asked)
            for again in rest:
                check_same(first, again, asked)
            return
        first = await ask(lane, asked, key)
        judge(totals, first, asked)
        if how == "after":
            check_same(first, await ask(lane, asked, key), asked)
        elif how == "elsewhere":
            check_same(first, await ask(other, asked, key), asked)
        elif how == "other body":
            await refused(other, f"{asked} changed", key, image=False)
            await refused(lane, asked, key, image=True)
        else:
            before_restart.append((lane, key, first))

    async def refused(lane: Lane, asked: str, key: str, *, image: bool) -> None:
        one = Shown(asked)
        async with aclosing(world.client(lane)) as client:
            items = client.image(asked, request_id=key) if image else client.chat(asked, request_id=key)
            await one.follow(items)
        if not isinstance(one.error, ChatError) or one.error.code != "idempotency_key_reused":
            totals.blame("generated", f"{asked}: another body with the same key was not refused ({one.error})")

    async def again(lane: Lane, key: str, first: Shown) -> None:
        check_same(first, await ask(lane, first.asked, key), f"{first.asked} after a restart")

    async with timed(totals):
        await spread(
            world, totals, [(f"key {nth}", partial(run, nth)) for nth in plan.pick(DUPLICATES, 30)], plan.parallel
        )
        if before_restart:
            await asyncio.gather(*(world.kill(word) for word in plan.words))
            await world.start()
            repeats: list[Job] = [(f"again {key}", partial(again, lane, key, one)) for lane, key, one in before_restart]
            runs = totals.runs
            await spread(world, totals, repeats, plan.parallel)
            totals.runs = runs
        await audit(world, totals, shown)
    return totals


async def cancels(world: World, plan: Plan) -> Totals:
    """A cancel at a random moment, from before the first token to after the last, by the asking client or by another one."""
    totals = Totals("cancels", plan.seed)
    shown: list[Shown] = []

    async def run(nth: int) -> None:
        dice = plan.random("cancels", nth)
        lane, other = plan.event_lanes[nth % len(plan.event_lanes)], dice.choice(plan.event_lanes)
        moment, tokens = dice.choice(
            ((1, LONG), (dice.randrange(2, 600), LONG), (dice.randrange(2, SHORT), SHORT), (None, SHORT))
        )
        asked = f"/tokens {tokens} cancel {nth}"
        one = Shown(asked)
        shown.append(one)
        how = dice.choice(("the same client", "the same transport", "another transport"))
        totals.notes[how] += 1
        async with aclosing(world.client(lane)) as asker, aclosing(world.client(other)) as stranger:
            if how == "the same transport":
                stranger = await _twin(world, lane, stranger)
            canceller = asker if how == "the same client" else stranger
            reached = asyncio.Event()

            def at_the_moment(now: Shown) -> bool:
                if moment is not None and now.after >= moment:
                    reached.set()
                return False

            reading = asyncio.create_task(one.follow(asker.chat(asked), at_the_moment))
            reading.add_done_callback(lambda _: reached.set())
            await reached.wait()
            asked_at = time.time()
            state = await canceller.cancel(one.turn_id)
            answered_at = time.time()
            await reading
            if canceller is stranger:
                await stranger.aclose()
            again = await asker.cancel(one.turn_id)
            await check(one, tokens == LONG, state, again, answered_at - asked_at, answered_at, asker)

    async def check(
        one: Shown,
        surely: bool,
        state: Snapshot,
        again: Snapshot,
        took_s: float,
        answered_at: float,
        client: ChatClient,
    ) -> None:
        judge(totals, one, one.asked, statuses=("cancelled",) if surely else ("completed", "cancelled"))
        if took_s > AT_ONCE_S:
            totals.blame("other", f"{one.asked}: a cancel took {took_s:.1f} s")
        if again != state or state.status != one.status or state.text != one.text:
            totals.blame("other", f"{one.asked}: the answers to a cancel differ ({state.status}, {one.status})")
        if one.status == "cancelled":
            totals.notes["cancelled"] += 1
            late_s = max(event.at for event in one.events) / 1000 - answered_at
            if late_s > 0.05:
                totals.blame("other", f"{one.asked}: something was said {late_s:.3f} s after the cancel was answered")
            if not isinstance(one.events[-1], TurnCancelled):
                totals.blame("ends", f"{one.asked}: no turn_cancelled")
        started = one.events[0] if one.events else None
        session_id = getattr(started, "session_id", None)
        if session_id is not None:
            said = await client.list_messages(session_id)
            texts = [(message.role, message.text, message.status) for message in said]
            wanted = [("user", one.asked, one.status)]
            if one.text or one.status == "completed":
                wanted.append(("model", one.text, one.status))
            if texts != wanted:
                totals.blame("lost", f"{one.asked}: the messages are {[(m.role, len(m.text), m.status) for m in said]}")

    async with timed(totals):
        await spread(
            world, totals, [(f"cancel {nth}", partial(run, nth)) for nth in plan.pick(CANCELS, 20)], plan.parallel
        )
        if "rest" in plan.words:
            await whole_replies(world, plan, totals, shown)
        await audit(world, totals, shown)
    return totals


async def _twin(world: World, lane: Lane, stranger: ChatClient) -> ChatClient:
    await stranger.aclose()
    return world.client(lane)


async def whole_replies(world: World, plan: Plan, totals: Totals, shown: list[Shown]) -> None:
    """Plain REST: the waiting client does not know its turn, but every client can read it in the session and cancel it."""
    lane = LANES["rest"]

    async def run(nth: int) -> None:
        dice = plan.random("whole", nth)
        asked = f"/tokens {LONG} cancel whole reply {nth}"
        one = Shown(asked)
        shown.append(one)
        async with (
            aclosing(world.client(lane)) as asker,
            aclosing(world.client(dice.choice(plan.event_lanes))) as other,
        ):
            session = await asker.create_session()
            reading = asyncio.create_task(one.follow(asker.chat(asked, session_id=session.session_id)))
            running = None
            while running is None and not reading.done():
                running = (await other.get_session(session.session_id)).running_turn_id
            await asyncio.sleep(dice.uniform(0, 0.3))
            state = await other.cancel(running or "")
            await reading
            judge(totals, one, asked, statuses=("completed", "cancelled"))
            if (state.status, state.text) != (one.status, one.text) or one.status != "cancelled":
                totals.blame("other", f"{asked}: {state.status}, but {one.status} was shown")
            if not expected(asked).startswith(one.text):
                totals.blame("hashes", asked)

    await spread(
        world, totals, [(f"whole {nth}", partial(run, nth)) for nth in range(plan.count(20, 2))], plan.parallel
    )
