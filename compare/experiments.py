"""The experiments of a run: what is done to the lanes, and what of it is written down.

Lanes run one after the other where processor time decides, in an order that is shuffled in each round, and side by side where not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from compare.floors.load import cpu_s, rss_bytes
from compare.lanes import LANES, Course, Running, generated, now_ms, shuffled, take, warm_up
from compare.lines import proxies
from compare.lines.faults import NETWORKS, Faults, describe
from compare.metrics import Objectives, Sample, Take, goodput
from compare.results import About
from protocols import TRANSPORTS
from shared.client.protocol import ChatClient, Lost, Resumed, collect_picture
from shared.errors import ChatError, ConnectionLost
from shared.events import Chunk, ImageChunk, TurnCancelled, TurnStarted
from shared.reply import Reply

LATENCY = ("ttfe", "ttft", "icl_p50", "icl_p99", "jitter", "tpot", "e2e", "delay_p50", "delay_p99", "coalescing")
COST = ("server_us", "client_us")
ON_THE_PATH = ("ttft", "icl_p50", "icl_p99", "e2e", "delay_p50", "delay_p99", "coalescing")
AFTER_A_CUT = ("lost", "twice", "again", "detect", "back", "e2e")
PICTURES = {"100 kB": "272x272", "1 MB": "928x928", "4 MB": "1936x1936", "16 MB": "3760x3760"}
BUFFER = Faults(buffer_bytes=4096, buffer_s=0.25)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    tokens: int
    streams: tuple[int, ...]
    stream_rounds: int
    paced_s: float
    throughput_s: float
    throughput_rounds: int
    connects: int
    pictures: tuple[str, ...]
    picture_rounds: int
    cancels: int
    cuts: int
    line_rounds: int
    memory_streams: int


FULL = Scale(12, 100, (16, 64, 256), 6, 8.0, 3.0, 6, 20, tuple(PICTURES), 7, 20, 20, 6, 200)
QUICK = Scale(6, 20, (64,), 1, 0.0, 1.0, 1, 6, ("100 kB", "1 MB"), 6, 6, 6, 1, 50)


@dataclass(slots=True)
class Bench:
    """What the experiments share."""

    scale: Scale
    names: list[str]
    seed: int
    rate: float
    say: Callable[[str], None]
    lanes: dict[str, Running] = field(default_factory=dict)
    takes: list[Take] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    about: dict[str, About] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def declare(self, name: str, title: str, what: str, metrics: Sequence[str] = LATENCY) -> None:
        """An experiment begins; ``metrics``: what it is about."""
        self.about.setdefault(name, About(title, what, tuple(metrics)))

    def sample(self, experiment: str, lane: str, number: int, metric: str, value: float | None) -> None:
        """Note a value; nothing where it could not be had."""
        if value is not None:
            self.samples.append(Sample(experiment=experiment, lane=lane, round=number, metric=metric, value=value))

    def direct(self, name: str) -> Running:
        """A lane without its relay."""
        lane = self.lanes[name]
        return replace(lane, address=lane.server.address, relay=None)

    def order(self, number: int) -> list[str]:
        """The lanes in this round's order."""
        return shuffled(self.names, self.seed, number)

    @asynccontextmanager
    async def clients(self, lane: Running, count: int, **options: bool) -> AsyncIterator[list[ChatClient]]:
        """Warmed-up clients of a lane."""
        async with contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(lane.client(**options)) for _ in range(count)]
            await asyncio.gather(*(warm_up(lane, client) for client in made))
            yield made


async def one_stream(bench: Bench) -> None:
    """Latency at one stream."""
    scale = bench.scale
    bench.declare(
        "1 stream",
        "One stream",
        f"{scale.rounds} turns of {scale.tokens} tokens at {bench.rate:g} tokens a second, lane after lane, no relay.",
    )
    course = Course(experiment="1 stream", tokens=scale.tokens, rate=bench.rate)
    async with contextlib.AsyncExitStack() as stack:
        lanes = {name: bench.direct(name) for name in bench.names}
        clients = {name: (await stack.enter_async_context(bench.clients(lane, 1)))[0] for name, lane in lanes.items()}
        for number in range(scale.rounds):
            bench.say(f"round {number + 1} of {scale.rounds}")
            for name in bench.order(number):
                bench.takes.append(await take(lanes[name], clients[name], course, number=number))


async def many_streams(bench: Bench, count: int) -> None:
    """Latency at many streams, which start evenly over a second, on a clock."""
    scale = bench.scale
    name = f"{count} streams"
    tokens = max(20, scale.tokens // 2)
    bench.declare(
        name,
        f"{count} streams at once",
        f"{count} clients, {tokens} tokens each at {bench.rate:g} tokens a second; they start on a clock, "
        "spread over 1 s; no relay.",
        (*LATENCY, *COST),
    )
    course = Course(experiment=name, tokens=tokens, rate=bench.rate)
    for number in range(scale.stream_rounds):
        for lane_name in bench.order(number):
            bench.say(f"{lane_name}, round {number + 1} of {scale.stream_rounds}")
            lane = bench.direct(lane_name)
            async with bench.clients(lane, count) as clients:
                offsets = [stream / count for stream in range(count)]
                found = await _on_the_clock(bench, lane, clients, course, offsets, number)
            bench.takes += found


async def _on_the_clock(
    bench: Bench, lane: Running, clients: Sequence[ChatClient], course: Course, offsets: Sequence[float], number: int
) -> list[Take]:
    """Start a turn at each offset (seconds), whether the ones before are done or not."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    server, client = cpu_s(lane.pid), time.process_time()

    async def turn(stream: int) -> Take:
        await asyncio.sleep(begun + offsets[stream] - loop.time())
        return await take(lane, clients[stream % len(clients)], course, number=number, stream=stream)

    found = list(await asyncio.gather(*(turn(stream) for stream in range(len(offsets)))))
    events = sum(len(taken.arrivals) if lane.lane.tokens else taken.tokens + 2 for taken in found)
    _cost(bench, course.experiment, lane, number, server, client, events)
    return found


def _cost(
    bench: Bench, experiment: str, lane: Running, number: int, server: float | None, client: float, events: int
) -> None:
    after = cpu_s(lane.pid)
    if server is not None and after is not None and events:
        bench.sample(experiment, lane.lane.name, number, "server_us", (after - server) * 1e6 / events)
    if events:
        bench.sample(experiment, lane.lane.name, number, "client_us", (time.process_time() - client) * 1e6 / events)


async def paced_load(bench: Bench) -> None:
    """Turns that arrive as people do (a seeded Poisson process), whether the server keeps up or not."""
    scale = bench.scale
    if not scale.paced_s:
        bench.unmeasured["paced load"] = "not in --quick"
        return
    per_s, tokens = 20.0, 40
    objectives = Objectives()
    bench.declare(
        "paced load",
        "Paced load",
        f"Turns of {tokens} tokens at {bench.rate:g} a second arrive at random, {per_s:g} a second for "
        f"{scale.paced_s:g} s, on a clock (open loop)."
        f" Goodput counts turns with TTFT ≤ {objectives.ttft_ms:g} ms, ICL p99 ≤ "
        f"{objectives.icl_p99_ms:g} ms and E2E ≤ {objectives.e2e_ms:g} ms.",
        ("goodput", *LATENCY, *COST),
    )
    dice = random.Random(bench.seed)
    offsets = [0.0]
    while offsets[-1] < scale.paced_s:
        offsets.append(offsets[-1] + dice.expovariate(per_s))
    course = Course(experiment="paced load", tokens=tokens, rate=bench.rate)
    for number in range(scale.stream_rounds):
        for name in bench.order(number):
            bench.say(f"{name}, round {number + 1} of {scale.stream_rounds}")
            lane = bench.direct(name)
            # More clients than turns can be open at once, so that none waits for another.
            async with bench.clients(lane, 128) as clients:
                found = await _on_the_clock(bench, lane, clients, course, offsets[:-1], number)
            bench.takes += found
            bench.sample("paced load", name, number, "goodput", goodput(found, objectives, scale.paced_s))


async def throughput(bench: Bench) -> None:
    """As many tokens as come through the real client; the model does not wait."""
    scale = bench.scale
    rounds = scale.throughput_rounds
    bench.declare(
        "throughput",
        "Throughput",
        f"16 clients ask again and again for 200 tokens, the model does not wait, {scale.throughput_s:g} "
        f"s x {rounds}. The client is Python too: where it costs more than the server, it is the limit.",
        ("tokens_per_s", *COST),
    )
    for number in range(rounds):
        for name in bench.order(number):
            bench.say(f"{name}, round {number + 1} of {rounds}")
            lane = bench.direct(name)
            async with bench.clients(lane, 16) as clients:
                counted = [0, 0]
                until = time.monotonic() + scale.throughput_s
                begun, server, own = time.monotonic(), cpu_s(lane.pid), time.process_time()
                await asyncio.gather(*(_ask_until(client, until, counted) for client in clients))
                seconds = time.monotonic() - begun
                _cost(bench, "throughput", lane, number, server, own, counted[1])
                bench.sample("throughput", name, number, "tokens_per_s", counted[0] / seconds)


async def _ask_until(client: ChatClient, until: float, counted: list[int]) -> None:
    while time.monotonic() < until:
        async with aclosing(client.chat("/tokens 200 throughput")) as items:
            async for item in items:
                tokens = 200 if isinstance(item, Reply) else int(isinstance(item, Chunk))
                counted[0] += tokens
                counted[1] += 202 if isinstance(item, Reply) else 1


async def bytes_on_the_wire(bench: Bench) -> None:
    """One turn on a connection of its own, through the relay, from its first byte to its last."""
    scale = bench.scale
    bench.declare(
        "bytes",
        "Bytes on the wire",
        f"One turn of {scale.tokens} tokens at {bench.rate:g} a second on a new connection, its opening "
        f"included; TCP payload counted at the relay; {max(6, scale.line_rounds)} rounds, lanes side by "
        "side.",
        ("down_per_token", "up_bytes", "framing"),
    )
    course = Course(experiment="bytes", tokens=scale.tokens, rate=bench.rate)

    async def measure(name: str, number: int) -> Take:
        lane = bench.lanes[name]
        assert lane.relay is not None
        up, down = lane.relay.up_bytes, lane.relay.down_bytes
        async with lane.client() as client:
            taken = await take(lane, client, course, number=number)
        taken.up_bytes, taken.down_bytes = lane.relay.up_bytes - up, lane.relay.down_bytes - down
        return taken

    for number in range(max(6, scale.line_rounds)):
        bench.say(f"round {number + 1}")
        bench.takes += await asyncio.gather(*(measure(name, number) for name in bench.order(number)))


async def connects(bench: Bench) -> None:
    """A new client, and one that is connected."""
    scale = bench.scale
    bench.declare(
        "connect",
        "Connecting",
        "A new client until its first ping is answered, and a ping on a connection that is open; "
        f"{scale.connects} times, no relay, no TLS.",
        ("connect_cold", "connect_warm"),
    )
    for number in range(scale.connects):
        bench.say(f"round {number + 1} of {scale.connects}")
        for name in bench.order(number):
            begun = now_ms()
            async with bench.direct(name).client() as client:
                await client.ping()
                cold = now_ms() - begun
                bench.sample("connect", name, number, "connect_cold", cold)
                bench.sample(
                    "connect", name, number, "connect_warm", statistics.median([await client.ping() for _ in range(5)])
                )


async def pictures(bench: Bench) -> None:
    """A picture that is in the log already, so that drawing it costs nothing."""
    scale = bench.scale
    for title in PICTURES:
        if title not in scale.pictures:
            bench.unmeasured[f"picture {title}"] = "not in --quick"
            continue
        experiment = f"picture {title}"
        bench.declare(
            experiment,
            f"A picture of {title}",
            f"The same request again with its key, so that it comes from the log; {scale.picture_rounds} "
            "times, lane after lane, no relay; bytes once more through it. By its id: get_image, the bytes as they are.",
            ("image_ms", "image_get", "image_cpu", "image_wire"),
        )
        for name in bench.order(0):
            bench.say(f"{title}, {name}")
            lane = bench.lanes[name]
            direct = bench.direct(name)
            course = Course(
                experiment=experiment, message="a red bridge", size=PICTURES[title], request_id=f"{name} {title}"
            )
            async with direct.client() as client:
                await take(direct, client, course)
                server = cpu_s(lane.pid)
                size = 0
                for number in range(scale.picture_rounds):
                    taken = await take(direct, client, course, number=number)
                    if taken.error is not None:
                        bench.takes.append(taken)
                        continue
                    size = _final_size(taken)
                    bench.sample(experiment, name, number, "image_ms", taken.arrivals[-1].ms)
                after = cpu_s(lane.pid)
                if server is not None and after is not None and size:
                    cost = (after - server) * 1000 / (size / 1e6 * scale.picture_rounds)
                    bench.sample(experiment, name, 0, "image_cpu", cost)
                image_id = await _image_id(direct, course)
                for number in range(scale.picture_rounds):
                    begun = now_ms()
                    await client.get_image(image_id)
                    bench.sample(experiment, name, number, "image_get", now_ms() - begun)
            async with lane.client() as client:
                taken = await take(lane, client, course, count_bytes=True)
                if taken.down_bytes is not None and taken.error is None:
                    bench.sample(experiment, name, 0, "image_wire", taken.down_bytes / _final_size(taken))


async def _image_id(lane: Running, course: Course) -> str:
    """The id of the picture that the course draws."""
    async with lane.client() as client:
        picture = await collect_picture(client.image(course.prompt, size=course.size, request_id=course.request_id))
    return picture.image_id


def _final_size(taken: Take) -> int:
    """Bytes of everything that was drawn: previews travel too where the answer streams."""
    return sum(arrival.size for arrival in taken.of("image_chunk", "picture"))


async def cancels(bench: Bench) -> None:
    """Stop pressed while the answer comes."""
    scale = bench.scale
    bench.declare(
        "cancel",
        "Stopping",
        f"Cancel pressed after 5 tokens (REST: after as long), {scale.cancels} times, lanes side by side, "
        "no relay. REST has to ask first which turn runs.",
        ("cancel", "cancel_seen"),
    )
    for number in range(scale.cancels):
        bench.say(f"round {number + 1} of {scale.cancels}")
        await asyncio.gather(*(_cancel(bench, bench.direct(name), number) for name in bench.order(number)))


async def _cancel(bench: Bench, lane: Running, number: int) -> None:
    async with lane.client() as client, lane.client() as other:
        session = await client.create_session()
        pressed: list[float] = []
        stopped: list[float] = []

        async def press(turn_id: str | None) -> None:
            pressed.append(now_ms())
            if turn_id is None:
                turn_id = (await other.get_session(session.session_id)).running_turn_id
            if turn_id is not None:
                await other.cancel(turn_id)

        async def later() -> None:
            await asyncio.sleep(5 / bench.rate)
            await press(None)

        turn_id: str | None = None
        tasks: list[asyncio.Task[None]] = []
        if not lane.lane.tokens:
            tasks.append(asyncio.create_task(later()))
        seen = 0
        async with aclosing(client.chat("/tokens 500 stop me", session_id=session.session_id)) as items:
            async for item in items:
                if isinstance(item, TurnStarted):
                    turn_id = item.turn_id
                seen += isinstance(item, Chunk)
                if seen == 5 and not tasks:
                    tasks.append(asyncio.create_task(press(turn_id)))
                if isinstance(item, TurnCancelled):
                    stopped.append(item.at)
                if isinstance(item, Reply):
                    turn_id = item.turn_id
        seen_ms = now_ms()
        await asyncio.gather(*tasks)
        if not stopped and turn_id is not None:
            async with (
                TRANSPORTS["rest"].client(lane.address, poll=True) as reader,
                aclosing(reader.read(turn_id)) as log,
            ):
                async for item in log:
                    if isinstance(item, TurnCancelled):
                        stopped.append(item.at)
        if pressed and stopped:
            bench.sample("cancel", lane.lane.name, number, "cancel", stopped[0] - pressed[0])
            bench.sample("cancel", lane.lane.name, number, "cancel_seen", seen_ms - pressed[0])


async def cuts(bench: Bench) -> None:
    """The line is cut at a random token; with the cursor, and as an application without one would go on."""
    scale = bench.scale
    dice = random.Random(bench.seed)
    tokens = max(30, scale.tokens // 2)
    for resume, name, what in (
        (True, "cut, with resume", "The client comes back with its cursor."),
        (False, "cut, without resume", "The client asks the same again, as a new question."),
    ):
        bench.declare(
            name,
            name.capitalize(),
            f"The relay cuts the connection at a random token of {tokens}, {scale.cuts} times, lanes side "
            f"by side. {what}",
            AFTER_A_CUT,
        )
        for number in range(scale.cuts):
            bench.say(f"{'with' if resume else 'without'} resume, {number + 1} of {scale.cuts}")
            course = Course(
                experiment=name, tokens=tokens, rate=bench.rate, cut_after=dice.randrange(2, tokens - 2), resume=resume
            )
            bench.takes += await asyncio.gather(
                *(_cut_one(bench.lanes[lane], course, number) for lane in bench.order(number))
            )


async def _cut_one(lane: Running, course: Course, number: int) -> Take:
    async with lane.client(resume=course.resume) as client:
        await warm_up(lane, client)
        taken = await take(lane, client, course, number=number)
    with contextlib.suppress(ChatError, ConnectionLost):
        taken.generated = await generated(lane, taken.asked_at)
    return taken


async def networks(bench: Bench) -> None:
    """Lines of a stated delay, bandwidth and share of late packets."""
    for profile, faults in NETWORKS.items():
        await _through(bench, f"network {profile}", f"On a {profile} line", describe(faults), faults)


async def buffers(bench: Bench) -> None:
    """A proxy that holds back what comes until there is enough of it."""
    about = "The relay holds back 4 KiB or 250 ms on the way to the client, as a proxy does that knows no streams"
    await _through(bench, "behind a buffer", "Behind a buffering proxy", about, BUFFER)


async def _through(bench: Bench, name: str, title: str, about: str, faults: Faults) -> None:
    scale = bench.scale
    rounds = max(6, scale.line_rounds)
    bench.declare(
        name,
        title,
        f"{about}. {scale.tokens} tokens at {bench.rate:g} a second, {rounds} rounds, lanes side by side.",
        ON_THE_PATH,
    )
    for lane in bench.lanes.values():
        assert lane.relay is not None
        lane.relay.faults = faults
    await _side_by_side(bench, name, bench.lanes, rounds)
    for lane in bench.lanes.values():
        assert lane.relay is not None
        lane.relay.faults = Faults()


async def _side_by_side(bench: Bench, name: str, lanes: dict[str, Running], rounds: int) -> None:
    course = Course(experiment=name, tokens=bench.scale.tokens, rate=bench.rate)
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for lane_name, lane in lanes.items():
            try:
                clients[lane_name] = (await stack.enter_async_context(bench.clients(lane, 1)))[0]
            except (ChatError, ConnectionLost) as error:
                bench.takes.append(_failed(name, lane_name, str(error)))
        for number in range(rounds):
            bench.say(f"{name}, round {number + 1} of {rounds}")
            bench.takes += await asyncio.gather(
                *(
                    take(lanes[lane_name], clients[lane_name], course, number=number)
                    for lane_name in bench.order(number)
                    if lane_name in clients
                )
            )


def _failed(experiment: str, lane: str, why: str) -> Take:
    return Take(
        experiment=experiment, lane=lane, round=0, stream=0, asked_at=now_ms(), tokens=0, arrivals=[], error=why
    )


def _kinds(scale: Scale) -> list[str]:
    """The proxies that are measured; in a quick run the two that differ most."""
    return [kind for kind in proxies.CONFIGURATIONS if scale.paced_s or kind in ("compressing", "gzip and buffering")]


async def real_proxies(bench: Bench) -> None:
    """nginx as people have it: plain, ignoring what the app asks for, and compressing."""
    if not proxies.available():
        for kind in proxies.CONFIGURATIONS:
            bench.unmeasured[f"nginx, {kind}"] = "no nginx here (Debian: apt-get install nginx-light)"
        return
    rounds = max(6, bench.scale.line_rounds)
    for kind, what in proxies.CONFIGURATIONS.items():
        name = f"nginx, {kind}"
        if kind not in _kinds(bench.scale):
            bench.unmeasured[name] = "not in --quick"
            continue
        bench.declare(
            name,
            f"Behind nginx, {kind}",
            f"{what} {bench.scale.tokens} tokens at {bench.rate:g} a second, {rounds} rounds, lanes side by side.",
            ON_THE_PATH,
        )
        targets = {lane: (bench.lanes[lane].server.address, LANES[lane].word == "grpc") for lane in bench.names}
        try:
            async with proxies.nginx(kind, targets) as addresses:
                lanes = {lane: replace(bench.lanes[lane], address=addresses[lane], relay=None) for lane in bench.names}
                await _side_by_side(bench, name, lanes, rounds)
        except (RuntimeError, OSError) as error:
            bench.unmeasured[name] = str(error)


async def slow_reader(bench: Bench) -> None:
    """One reader that takes its time with a picture, and another one that wants its tokens."""
    scale = bench.scale
    if not scale.paced_s:
        bench.unmeasured["slow reader"] = "not in --quick"
        return
    rounds = max(6, scale.line_rounds)
    size = PICTURES["4 MB"]
    bench.declare(
        "slow reader",
        "Beside a slow reader",
        f"A first client takes 25 ms over every piece of a picture ({size}); a second one reads "
        f"{scale.tokens} tokens at {bench.rate:g} a second; {rounds} rounds. Plain REST cannot read "
        "slowly: it has nothing to read until all is there.",
        ("delay_p50", "delay_p99", "e2e", "slow_kib"),
    )
    course = Course(experiment="slow reader", tokens=scale.tokens, rate=bench.rate)
    for number in range(rounds):
        for name in bench.order(number):
            if name == "rest":
                continue
            bench.say(f"{name}, round {number + 1} of {rounds}")
            lane = bench.direct(name)
            async with bench.clients(lane, 2) as (slow, quick):
                before = rss_bytes(lane.pid)
                reading = asyncio.create_task(_read_slowly(slow, size, f"{name} slow"))
                taken = await take(lane, quick, course, number=number)
                after = rss_bytes(lane.pid)
                await reading
            bench.takes.append(taken)
            if before is not None and after is not None:
                bench.sample("slow reader", name, number, "slow_kib", (after - before) / 1024)


async def _read_slowly(client: ChatClient, size: str, key: str) -> None:
    async with aclosing(client.image("a red bridge", size=size, request_id=key)) as items:
        async for item in items:
            if isinstance(item, ImageChunk):
                await asyncio.sleep(0.025)


async def memory(bench: Bench) -> None:
    """What an open stream costs the server: a client and a turn each, waiting for the first token."""
    scale = bench.scale
    count = scale.memory_streams
    bench.declare(
        "memory",
        "Memory",
        f"{count} clients, each with a turn that waits for its first token; the server's resident memory "
        "before and with them.",
        ("stream_kib",),
    )
    for name in bench.order(0):
        bench.say(name)
        lane = bench.direct(name)
        # What the allocator and the imports take the first time is not the streams'.
        await _hold(lane, 20)
        before = rss_bytes(lane.pid)
        during = await _hold(lane, count)
        if before is not None and during is not None:
            bench.sample("memory", name, 0, "stream_kib", (during - before) / 1024 / count)


async def _hold(lane: Running, count: int) -> int | None:
    """Open so many streams, look at the server's memory, leave."""

    async def wait(client: ChatClient, begun: asyncio.Semaphore) -> None:
        async with aclosing(client.chat("/slow 60 wait")) as items:
            async for item in items:
                if isinstance(item, TurnStarted | Lost | Resumed):
                    begun.release()

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(lane.client()) for _ in range(count)]
        begun = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(wait(client, begun)) for client in clients]
        if lane.lane.tokens:
            for _ in range(count):
                await begun.acquire()
        await asyncio.sleep(0.5)
        size = rss_bytes(lane.pid)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return size


Work = Callable[[Bench], Awaitable[None]]


def plan(scale: Scale, lanes: int) -> list[tuple[float, list[tuple[str, float, Work]]]]:
    """Experiments by the rate that their servers are started with, each with its expected seconds."""
    turn_s = scale.tokens / 50 + 0.05
    cut_s = max(30, scale.tokens // 2) / 50
    line_rounds = max(6, scale.line_rounds)
    many: list[tuple[str, float, Work]] = [
        (
            f"{count} streams",
            scale.stream_rounds * lanes * (1.1 + count / 340 + max(20, scale.tokens // 2) / 20),
            _many(count),
        )
        for count in scale.streams
    ]
    return [
        (
            50.0,
            [
                ("one stream", 2 + scale.rounds * lanes * turn_s, one_stream),
                ("bytes", line_rounds * (turn_s + 0.3), bytes_on_the_wire),
                ("cuts", scale.cuts * (3 * cut_s + 0.8), cuts),
                ("networks", 4 * (1 + line_rounds * (turn_s + 0.2)), networks),
                ("buffer", 1 + line_rounds * (turn_s + 0.4), buffers),
                (
                    "proxies",
                    len(_kinds(scale)) * (1 + line_rounds * (turn_s + 0.1)) if proxies.available() else 0.1,
                    real_proxies,
                ),
                ("cancel", scale.cancels * 0.15, cancels),
                ("slow reader", line_rounds * lanes * turn_s if scale.paced_s else 0.1, slow_reader),
                ("memory", lanes * (1.8 + scale.memory_streams / 60), memory),
            ],
        ),
        (
            20.0,
            [
                *many,
                (
                    "paced load",
                    scale.stream_rounds * lanes * (scale.paced_s + 2.5) if scale.paced_s else 0.1,
                    paced_load,
                ),
            ],
        ),
        (
            0.0,
            [
                ("throughput", scale.throughput_rounds * lanes * (scale.throughput_s + 0.7), throughput),
                ("connect", scale.connects * lanes * 0.06, connects),
                (
                    "pictures",
                    lanes
                    * sum({"100 kB": 0.1, "1 MB": 0.3, "4 MB": 0.8, "16 MB": 2.8}[title] for title in scale.pictures),
                    pictures,
                ),
            ],
        ),
    ]


def _many(count: int) -> Work:
    return lambda bench: many_streams(bench, count)
