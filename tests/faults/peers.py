"""Peers that are slow, silent or gone: stalled readers, clients that leave, requests that never end, half-open connections."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from functools import partial

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.lanes import LANES, Lane
from protocols import TRANSPORTS
from shared.client.protocol import Ask, ChatClient
from tests.faults.harness import (
    Plan,
    Shown,
    Totals,
    World,
    audit,
    judge,
    rows,
    spread,
    timed,
    until,
)

STALLED = 20
# More tokens than fit into all buffers on the path, so that the server feels a stalled reader.
BIG = 60_000
LEAVERS = 20
HALF_OPEN = 10


async def stalled_readers(world: World, plan: Plan) -> Totals:
    """20 readers stop reading beside 20 healthy ones, on each transport.

    The healthy readers stay fast, and the server cuts the stalled readers.
    """
    totals = Totals("stalled", plan.seed)
    shown: list[Shown] = []
    count = plan.count(STALLED, 4)
    stall_s = float(world.env["STALL_TIMEOUT_S"])

    async def healthy(lane: Lane, round: str) -> float:
        """Run all healthy readers at once. Returns the seconds that they took."""
        begun = time.monotonic()
        ones = [Shown(f"/tokens 300 healthy {i} {round} on {lane.name}") for i in range(count)]
        shown.extend(ones)

        async def read(one: Shown) -> None:
            async with aclosing(world.client(lane)) as client:
                await one.follow(client.chat(one.asked))
            judge(totals, one, one.asked)

        await asyncio.gather(*(read(one) for one in ones))
        totals.runs += count
        return time.monotonic() - begun

    async def beside(lane: Lane, turn_id: str) -> None:
        await healthy(lane, "to warm up")
        alone_s = await healthy(lane, "alone")
        async with aclosing(world.client(LANES[lane.word])) as control:
            server = world.servers[lane.word]
            faults = Faults(stall_after_bytes=50_000, times=None, window_bytes=4096)
            async with Relay(server.address, faults) as relay:
                readers = [world.client(lane, relay.address, resume=False, silence_s=60.0) for _ in range(count)]
                reading = [asyncio.create_task(Shown("").follow(reader.read(turn_id))) for reader in readers]
                await until(lambda: relay.fault_count == count, 30, f"{lane.name}: the readers do not stall")
                stalled_at = time.monotonic()
                beside_s = await healthy(lane, "beside the stalled")
                if beside_s > 2 * alone_s + 1:
                    totals.blame(
                        "other", f"{lane.name}: {beside_s:.2f} s beside stalled readers, {alone_s:.2f} s alone"
                    )

                async def nobody_left() -> bool:
                    return (await control.stats()).streams_active == 0

                try:
                    await until(nobody_left, 3 * stall_s + 10, "")
                    totals.notes[f"{lane.name} cut after {time.monotonic() - stalled_at:.1f} s"] += count
                except TimeoutError:
                    left = (await control.stats()).streams_active
                    totals.blame("other", f"{lane.name}: {left} stalled readers are never cut", left)
                for task in reading:
                    task.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
                await asyncio.gather(*(reader.cut() for reader in readers))
                relay.cut(reset=True)
                await asyncio.gather(*(reader.aclose() for reader in readers))
            totals.runs += count

    async with timed(totals):
        turn_id = await _big_turn(world)
        for lane in plan.event_lanes:
            await beside(lane, turn_id)
        await audit(world, totals, shown)
    return totals


async def _big_turn(world: World) -> str:
    """Make a long turn that has ended, for many readers at once, and return its id."""
    async with aclosing(world.client(LANES[world.words[0]])) as client:
        turn = await client.start(Ask(text=f"/tokens {BIG} for those who stall"))

        async def ended() -> bool:
            return (await client.get_turn(turn.turn_id)).status == "completed"

        await until(ended, 120, "the long turn does not end")
    return turn.turn_id


async def leavers(world: World, plan: Plan) -> Totals:
    """A turn that nobody reads is cancelled after the grace period. A reader that comes back in time, anywhere, reads on."""
    totals = Totals("leaving", plan.seed)
    shown: list[Shown] = []
    grace_s = float(world.env["DISCONNECT_GRACE_S"])
    tokens = int(float(world.env["OFFLINE_TOKENS_PER_S"]) * grace_s * 3)

    async def leave(lane: Lane, nth: int) -> tuple[Shown, float]:
        dice = plan.random("leave", lane.name, nth)
        one = Shown(f"/tokens {tokens} leaver {nth} on {lane.name}")
        shown.append(one)
        moment = dice.randrange(1, tokens // 6)
        async with aclosing(world.client(lane)) as client:
            await one.follow(client.chat(one.asked), lambda now: now.after >= moment)
            await client.cut()
        return one, time.time()

    async def for_good(lane: Lane, nth: int) -> None:
        one, left_at = await leave(lane, nth)

        def ended() -> list[tuple[str, float]]:
            found: list[tuple[str, float]] = rows(
                world.store, "SELECT status, ended_at FROM turns WHERE turn_id = ? AND ended_at > 0", one.turn_id
            )
            return found

        status, ended_at = (await until(ended, 6 * grace_s, f"{one.asked}: it goes on"))[0]
        paid_s = ended_at / 1000 - left_at
        if status != "cancelled" or not 0.9 * grace_s <= paid_s <= grace_s + 2:
            totals.blame("other", f"{one.asked}: {status} {paid_s:.2f} s after it was left")
        totals.notes["left for good"] += 1

    async def and_back(lane: Lane, nth: int) -> None:
        one, left_at = await leave(lane, nth)
        dice = plan.random("back", lane.name, nth)
        other = dice.choice((lane, *plan.event_lanes))
        back_at = left_at + dice.uniform(0, 0.6) * grace_s
        await asyncio.sleep(max(0.0, back_at - time.time()))
        async with aclosing(world.client(other)) as client:
            await one.follow(client.read(one.turn_id, one.after))
        in_time = one.status != "cancelled" or one.events[-1].at / 1000 - left_at < 0.9 * grace_s
        # On a busy machine the reader may come back too late. Then the turn was cancelled, but not before the grace period.
        judge(totals, one, f"{one.asked}, back on {other.name}", statuses=("completed",) if in_time else ("cancelled",))
        totals.notes["came back" if in_time else "came too late"] += 1

    async def whole_reply(nth: int) -> None:
        """Plain REST: closing the connection is leaving, and repeating the POST is coming back."""
        one = Shown(f"/tokens {tokens} leaver {nth} of a whole reply")
        shown.append(one)
        key = f"leaver {nth} of {plan.seed}"
        for wait_s in (0.3 * grace_s, 60.0):
            async with aclosing(world.client(LANES["rest"], resume=False)) as client:
                reading = asyncio.create_task(one.follow(client.chat(one.asked, request_id=key)))
                await asyncio.wait((reading,), timeout=wait_s)
                if not reading.done():
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        judge(totals, one, one.asked)

    async with timed(totals):
        count = plan.count(LEAVERS // 2)
        jobs = [
            (f"{how.__name__} {lane.name} {2 * nth + i}", partial(how, lane, 2 * nth + i))
            for nth in range(count)
            for i, how in enumerate((for_good, and_back))
            for lane in plan.event_lanes
            # A turn that POST /turns starts goes on while nobody reads it.
            if not (how is for_good and lane.name == "rest-poll")
        ]
        jobs += [
            (f"whole {nth}", partial(whole_reply, nth)) for nth in range(plan.count(LEAVERS)) if "rest" in plan.words
        ]
        await spread(world, totals, jobs, plan.parallel * 2)
        await audit(world, totals, shown)
    return totals


HEAD = b"POST /chat/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# The first bytes of requests that never end.
UNFINISHED: dict[str, dict[str, bytes]] = {
    "http": {
        "nothing": b"",
        "half a line": b"POST /cha",
        "half a head": HEAD,
        "half a body": HEAD + b'\r\n{"message": ',
    },
    "websocket": {
        "half a handshake": HANDSHAKE,
        "half a frame": HANDSHAKE + b"\r\n\x81\xfe\x40\x00abcd{",
        "no pong": HANDSHAKE + b"\r\n",
    },
    "grpc": {"nothing": b"", "half a preface": PREFACE[:10], "no ping ack": PREFACE + SETTINGS_FRAME},
}


async def unfinished(world: World, plan: Plan) -> Totals:
    """A client that never finishes its request, or never answers a ping, loses its connection."""
    totals = Totals("unfinished", plan.seed)
    limit_s = float(world.env["REQUEST_TIMEOUT_S"]) + float(world.env["STALL_TIMEOUT_S"]) + 3

    async def drop(word: str, name: str, data: bytes) -> None:
        host, _, port = world.servers[word].address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        begun = time.monotonic()
        try:
            writer.write(data)
            async with asyncio.timeout(limit_s):
                while await reader.read(65536):
                    pass
        except TimeoutError:
            totals.blame("other", f"{word}: a client that sends {name} is never dropped")
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            totals.notes[f"{word} {name} {time.monotonic() - begun:.1f} s"] += 1

    async with timed(totals):
        jobs = []
        for word in plan.words:
            cases = UNFINISHED["grpc"] if word == "grpc" else dict(UNFINISHED["http"])
            if word == "websocket":
                cases |= UNFINISHED["websocket"]
            jobs += [(f"{word} {name}", partial(drop, word, name, data)) for name, data in cases.items()]
        await spread(world, totals, jobs, len(jobs))
    return totals


async def half_open(world: World, plan: Plan) -> Totals:
    """Each end of a held connection notices by heartbeats that the other end is gone."""
    totals = Totals("half-open", plan.seed)
    count = plan.count(HALF_OPEN, 2)
    limit_s = float(world.env["HEARTBEAT_S"]) + float(world.env["STALL_TIMEOUT_S"]) + 5

    async def hold(lane: Lane) -> None:
        async with (
            Relay(world.servers[lane.word].address) as relay,
            aclosing(world.client(LANES[lane.word])) as control,
        ):
            before = await _connections(control)
            clients = [world.client(lane, relay.address, silence_s=2.0) for _ in range(count)]
            watching = []
            for client in clients:
                session = await client.create_session()
                watching.append(asyncio.create_task(Shown("").follow(client.watch(session.session_id))))  # type: ignore[arg-type]

            async def there() -> bool:
                return await _connections(control) >= before + count

            await until(there, 10, f"{lane.name}: {count} connections")
            relay.discard()

            async def gone() -> bool:
                return await _connections(control) <= before

            try:
                await until(gone, limit_s, "")
            except TimeoutError:
                left = await _connections(control) - before
                totals.blame("other", f"{lane.name}: the server keeps {left} dead connections", left)
            done, waiting = await asyncio.wait(watching, timeout=limit_s)
            if waiting:
                totals.blame("other", f"{lane.name}: {len(waiting)} clients wait on dead connections", len(waiting))
            for task in waiting:
                task.cancel()
            for task in done:
                if task.result().error is None:
                    totals.blame("other", f"{lane.name}: a client was not told that its line is gone")
            relay.cut(reset=True)
            await asyncio.gather(*(client.aclose() for client in clients))
            totals.runs += count

    async with timed(totals):
        for word in plan.words:
            if TRANSPORTS[word].holds:
                await hold(LANES[word])
    return totals


async def _connections(client: ChatClient) -> int:
    return (await client.stats()).connections_active
