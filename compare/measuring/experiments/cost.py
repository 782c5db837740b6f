"""What a transport costs: CPU at full speed, bytes, connecting, memory of an open stream."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from contextlib import aclosing

from compare.measuring.experiments.run import COST, CpuTimes, Run
from compare.measuring.lanes import RunningLane
from compare.measuring.process_cost import rss_bytes
from compare.measuring.recording import TurnSpec, now_ms, record_turn
from compare.measuring.turns import TurnRecord
from shared.client.protocol import ChatClient, Lost, Reconnected
from shared.events import Chunk, TurnStarted
from shared.reply import Reply

_CLIENTS = 16
_TOKENS = 200
_FIRST_STREAMS = 20
# The experiment ends with an error after this time, because a server may have refused a turn.
_BEGIN_WITHIN_S = 60.0


async def throughput(run: Run) -> None:
    """As many tokens as the lane's own clients can read; the model does not wait."""
    scale = run.scale
    run.describe(
        "throughput",
        "Throughput",
        f"{_CLIENTS} clients ask again and again for {_TOKENS} tokens, the model does not wait, {scale.throughput_s:g} s,"
        f" {run.rounds(scale.throughput_repeats)}. The client is Python too: where it costs more than the server, it is the"
        " limit.",
        ("tokens_per_s", *COST),
    )
    for repeat in range(scale.throughput_repeats):
        number = run.round_of(repeat)
        for name in run.order(repeat):
            run.say(name)
            lane = run.direct(name)
            async with run.clients(lane, _CLIENTS) as clients:
                begun, before = time.monotonic(), CpuTimes.of(lane)
                until = begun + scale.throughput_s
                counts = await asyncio.gather(*(ask_until(client, until) for client in clients))
                seconds = time.monotonic() - begun
                run.sample_cpu("throughput", lane, number, before, sum(events for _, events in counts))
                tokens_per_s = sum(tokens for tokens, _ in counts) / seconds
                run.sample("throughput", name, number, "tokens_per_s", tokens_per_s)


async def ask_until(client: ChatClient, until: float) -> tuple[int, int]:
    """Ask again and again until this monotonic time. Returns the numbers of tokens and of events."""
    tokens = events = 0
    while time.monotonic() < until:
        async with aclosing(client.chat(f"/tokens {_TOKENS} throughput")) as items:
            async for item in items:
                whole = isinstance(item, Reply)
                tokens += _TOKENS if whole else int(isinstance(item, Chunk))
                events += _TOKENS + 2 if whole else 1
    return tokens, events


async def bytes_on_the_wire(run: Run) -> None:
    """One turn on a connection of its own, through the relay, from its first byte to its last."""
    scale = run.scale
    run.describe(
        "bytes",
        "Bytes on the wire",
        f"One turn of {scale.tokens} tokens at {run.rate:g} a second on a new connection, its opening "
        f"included; TCP payload counted at the relay; {run.rounds(scale.line_repeats)}, lanes side by side.",
        ("down_per_token", "up_bytes", "framing"),
    )
    spec = TurnSpec(experiment="bytes", tokens=scale.tokens, rate=run.rate)

    async def measure(name: str, number: int) -> TurnRecord:
        lane = run.lanes[name]
        assert lane.relay is not None
        up, down = lane.relay.up_bytes, lane.relay.down_bytes
        async with lane.client() as client:
            turn = await record_turn(lane, client, spec, number=number)
        turn.up_bytes, turn.down_bytes = lane.relay.up_bytes - up, lane.relay.down_bytes - down
        return turn

    for repeat in range(scale.line_repeats):
        run.say(f"{repeat + 1} of {scale.line_repeats}")
        number = run.round_of(repeat)
        run.turns += await asyncio.gather(*(measure(name, number) for name in run.order(repeat)))


async def connects(run: Run) -> None:
    """The first ping of a new client, and a ping on an open connection."""
    scale = run.scale
    run.describe(
        "connect",
        "Connecting",
        "A new client until its first ping is answered, and a ping on a connection that is open; "
        f"{run.rounds(scale.connects)}, no relay.",
        ("connect_cold", "connect_warm"),
    )
    for repeat in range(scale.connects):
        run.say(f"{repeat + 1} of {scale.connects}")
        number = run.round_of(repeat)
        for name in run.order(repeat):
            begun = now_ms()
            async with run.direct(name).client() as client:
                await client.ping()
                run.sample("connect", name, number, "connect_cold", now_ms() - begun)
                pings = [await client.ping() for _ in range(5)]
                run.sample("connect", name, number, "connect_warm", statistics.median(pings))


async def memory(run: Run) -> None:
    """What an open stream costs the server, with a client and a turn for each stream."""
    count = run.scale.memory_streams
    run.describe(
        "memory",
        "Memory",
        f"{count} clients, each with a turn that waits for its first token; the server's resident memory "
        f"before and with them, {run.rounds(1)}.",
        ("stream_kib",),
    )
    for name in run.order(0):
        run.say(name)
        lane = run.direct(name)
        # The first streams make the server import modules and allocate arenas; that memory is not the streams'.
        await _memory_with_streams(lane, _FIRST_STREAMS)
        before = rss_bytes(lane.pid)
        during = await _memory_with_streams(lane, count)
        if before is not None and during is not None:
            run.sample("memory", name, run.round_of(0), "stream_kib", (during - before) / 1024 / count)


async def _memory_with_streams(lane: RunningLane, count: int) -> int | None:
    """The server's resident memory while this many streams are open."""

    async def wait(client: ChatClient, begun: asyncio.Semaphore) -> None:
        async with aclosing(client.chat("/slow 60 wait")) as items:
            async for item in items:
                if isinstance(item, TurnStarted | Lost | Reconnected):
                    begun.release()

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(lane.client()) for _ in range(count)]
        begun = asyncio.Semaphore(0)
        made = (await clients[0].stats()).sessions_created
        tasks = [asyncio.create_task(wait(client, begun)) for client in clients]
        try:
            async with asyncio.timeout(_BEGIN_WITHIN_S):
                if lane.lane.tokens:
                    for _ in range(count):
                        await begun.acquire()
                else:
                    # Nothing comes before the whole answer, so the server is asked how many turns have begun.
                    while (await clients[0].stats()).sessions_created < made + count:
                        pass
            await asyncio.sleep(0.5)
            size = rss_bytes(lane.pid)
        except TimeoutError:
            why = f"{lane.lane.name}: the server has not begun {count} turns within {_BEGIN_WITHIN_S:g} s; see its log"
            raise RuntimeError(why) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return size
