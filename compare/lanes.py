"""A lane: a transport's own server in a process of its own, its real client, and a record of when what arrived.

Times are wall-clock (``time.time_ns``), because an event's ``at`` is; server and client share the machine, so they share the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from compare.lines.faults import Faults, describe
from compare.lines.relay import Relay
from compare.metrics import Arrival, Take
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, Item, Lost, Resumed
from shared.errors import ChatError, ConnectionLost
from shared.events import AnyEvent, Chunk, ImageChunk, event_type
from shared.reply import Picture, Reply

PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "sse-starlette",
    "websockets",
    "grpcio",
    "protobuf",
    "httpx",
    "msgspec",
    "apsw",
)


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to run the chat; REST has two."""

    name: str
    word: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> bool:
        """Whether the reply arrives token by token."""
        return self.name != "rest"


LANES: dict[str, Lane] = {
    lane.name: lane
    for lane in (
        Lane("rest", "rest"),
        Lane("rest-poll", "rest", {"poll": True}),
        *(Lane(word, word) for word in TRANSPORTS if word != "rest"),
    )
}


@dataclass(slots=True)
class Running:
    """A lane that is up; clients connect to ``address``, which is the relay where there is one."""

    lane: Lane
    server: Server
    address: str
    relay: Relay | None = None

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.server.process.pid

    def client(self, **options: Any) -> ChatClient:
        """A new client of this lane."""
        return TRANSPORTS[self.lane.word].client(self.address, **self.lane.options, **options)


@asynccontextmanager
async def running(
    names: Sequence[str],
    *,
    rate: float,
    first_ms: float = 0.0,
    faults: Faults | None = None,
    relayed: bool = False,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[dict[str, Running]]:
    """The lanes' servers, each with the same offline model on the in-memory store; ``rate`` is in tokens a second.

    Raises RuntimeError with the server's own words when one does not start.
    """
    settings = {
        "GENAI_PROVIDER": "offline",
        "IMAGE_PROVIDER": "offline",
        "GENAI_MODEL_ID": "",
        "STORE_URL": "sqlite://",
        "OFFLINE_TOKENS_PER_S": f"{rate:g}",
        "OFFLINE_FIRST_TOKEN_MS": f"{first_ms:g}",
        "OFFLINE_TOKENS": "0",
        **(env or {}),
    }
    del settings["GENAI_MODEL_ID"]
    async with contextlib.AsyncExitStack() as stack:
        servers = await asyncio.gather(
            *(stack.enter_async_context(serving(LANES[name].word, env=settings, apart=True)) for name in names)
        )
        lanes = {}
        for name, server in zip(names, servers, strict=True):
            relay = None
            if relayed or faults is not None:
                relay = await stack.enter_async_context(Relay(server.address, faults))
            lanes[name] = Running(LANES[name], server, relay.address if relay else server.address, relay)
        yield lanes


def now_ms() -> float:
    """Epoch milliseconds."""
    return time.time_ns() / 1e6


Watch = Callable[[Item, Arrival], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What every lane is asked in the same way. ``cut_after``: the line is cut once so many tokens have been shown."""

    experiment: str
    message: str = "Tell me how this answer reached me."
    tokens: int = 0
    rate: float = 0.0
    first_ms: float = 0.0
    cut_after: int | None = None
    resume: bool = True
    size: str | None = None
    request_id: str | None = None

    @property
    def prompt(self) -> str:
        """The message with its length as a stage direction of the offline model."""
        return f"/tokens {self.tokens} {self.message}" if self.tokens and self.size is None else self.message


async def take(
    lane: Running,
    client: ChatClient,
    course: Course,
    *,
    number: int = 0,
    stream: int = 0,
    watch: Watch | None = None,
    count_bytes: bool = False,
) -> Take:
    """Ask once, and write down what arrives when. A failure is part of the record, not an exception.

    ``count_bytes``: nothing else passes the lane's relay meanwhile, so what it counts is this turn's.
    """
    asked_at = now_ms()
    seen = Take(
        experiment=course.experiment,
        lane=lane.lane.name,
        round=number,
        stream=stream,
        asked_at=asked_at,
        tokens=course.tokens,
        arrivals=[],
        resume=course.resume,
    )
    relay = lane.relay
    before = (relay.up_bytes, relay.down_bytes) if relay is not None and count_bytes else None
    cutting = None
    if course.cut_after is not None and not lane.lane.tokens:
        # Nothing is shown before everything: the line breaks when as many tokens have been generated as the others were shown.
        cutting = asyncio.create_task(
            _cut_later(seen, lane, (course.first_ms + course.cut_after * 1000 / course.rate) / 1000)
        )
    try:
        await _read(seen, lane, _ask(client, course), course, watch)
    except ConnectionLost as error:
        if course.resume or course.cut_after is None:
            seen.error = error.message
        else:
            await _ask_again(seen, lane, client, course, watch)
    except ChatError as error:
        seen.error = f"{error.code}: {error.message}"
    finally:
        if cutting is not None:
            cutting.cancel()
    if relay is not None and before is not None:
        seen.up_bytes, seen.down_bytes = relay.up_bytes - before[0], relay.down_bytes - before[1]
    if not seen.tokens:
        seen.tokens = len(seen.of("chunk"))
    return seen


def _ask(client: ChatClient, course: Course) -> AsyncGenerator[Item, None]:
    if course.size is not None:
        return client.image(course.prompt, size=course.size, request_id=course.request_id)
    return client.chat(course.prompt, request_id=course.request_id)


async def _ask_again(seen: Take, lane: Running, client: ChatClient, course: Course, watch: Watch | None) -> None:
    """What an application without a cursor does: ask the same again, as a new question."""
    note(seen, "asked")
    try:
        await _read(seen, lane, _ask(client, course), None, watch)
    except (ConnectionLost, ChatError) as error:
        seen.error = str(error)


async def _read(
    seen: Take, lane: Running, items: AsyncGenerator[Item, None], course: Course | None, watch: Watch | None
) -> None:
    shown = 0
    async with aclosing(items):
        async for item in items:
            arrival = _arrival(seen, item)
            seen.arrivals.append(arrival)
            if watch is not None:
                watch(item, arrival)
            if arrival.type == "chunk" and course is not None:
                shown += 1
                if shown == course.cut_after:
                    cut(seen, lane)


def _arrival(seen: Take, item: Item) -> Arrival:
    ms = now_ms() - seen.asked_at
    match item:
        case Chunk():
            return Arrival(ms, "chunk", item.seq, item.at - seen.asked_at, len(item.text.encode()), item.text)
        case ImageChunk():
            return Arrival(ms, "image_chunk", item.seq, item.at - seen.asked_at, len(item.data))
        case Reply():
            return Arrival(ms, "reply", 0, None, len(item.text.encode()), item.text)
        case Picture():
            return Arrival(ms, "picture", 0, None, len(item.image))
        case Lost():
            return Arrival(ms, "lost", item.after, None, 0)
        case Resumed():
            return Arrival(ms, "resumed", item.after, None, 0)
    event: AnyEvent = item
    return Arrival(ms, event_type(event), event.seq, event.at - seen.asked_at, 0)


def note(seen: Take, what: str) -> None:
    """Write down something that was done, not received."""
    seen.arrivals.append(Arrival(now_ms() - seen.asked_at, what, 0, None, 0))


def cut(seen: Take, lane: Running) -> None:
    """Cut the lane's line at the relay, now."""
    if lane.relay is not None and lane.relay.cut():
        note(seen, "cut")


async def _cut_later(seen: Take, lane: Running, seconds: float) -> None:
    await asyncio.sleep(seconds)
    cut(seen, lane)


async def generated(lane: Running, since_ms: float) -> int | None:
    """Tokens that the lane's model has said in turns begun since then; asked at the server itself, past the relay."""
    total = 0
    async with TRANSPORTS[lane.lane.word].client(lane.server.address) as client:
        for session in (await client.list_sessions(limit=20)).sessions:
            if session.created_at >= since_ms - 1 and session.last_turn_id is not None:
                turn = await client.get_turn(session.last_turn_id)
                total += turn.last_seq - 1 - (turn.status != "running")
    return total


async def warm_up(lane: Running, client: ChatClient) -> None:
    """A short turn that counts nowhere: imports, caches, connections."""
    await take(lane, client, Course(experiment="warm-up", tokens=3))


def shuffled(names: Sequence[str], seed: int, number: int) -> list[str]:
    """The lanes in this round's order."""
    order = list(names)
    random.Random(seed * 1000 + number).shuffle(order)
    return order


def setup(faults: Faults | None = None) -> dict[str, str]:
    """What a reader must know to judge the numbers."""
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}",
        "python": f"CPython {platform.python_version()}",
        "versions": ", ".join(versions),
        "model": "offline, the same tokens on the same schedule in every lane; no provider's SDK",
        "store": "in memory (sqlite://), so that this is the transport",
        "processes": "a server a lane, the clients and the relay in one",
        "wire": "HTTP/1.1 (REST, NDJSON, SSE, WebSocket) and HTTP/2 (gRPC), no TLS, TCP_NODELAY on, no compression "
        "(permessage-deflate off, gRPC identity)",
        "limits": "one of ours, MAX_BODY_BYTES 8 MiB; the libraries' lie above it",
        "network": describe(faults),
        "clock": "wall clock of one machine; an event's `at` and its arrival are read from the same clock",
    }
