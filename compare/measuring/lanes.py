"""A lane: one way to run the chat, with the transport's own server in a process of its own and the transport's own client."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.http2_sender import http2_sender
from protocols import TRANSPORTS, certs
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient
from shared.llm.offline import MODEL_ID

# The labels that are shorter than the transport's name with the variant.
_LABELS = {"rest-poll": "long-polling"}


@dataclass(frozen=True, slots=True)
class Lane:
    """A transport, and the options of its client. REST has two lanes: one whole reply, and polling.

    ``name`` is what one types. ``variant`` stands behind the transport's name in texts and tables.
    ``for_pages``: the lane uses the server's port for pages, and ``page_client`` the client that pages' protocols need.
    ``http2``: the server speaks HTTP/2 beside HTTP/1.1. ``needs``: the packages of extras, without which there is no lane.
    """

    name: str
    word: str
    options: Mapping[str, Any] = field(default_factory=dict)
    for_pages: bool = False
    page_client: bool = False
    http2: bool = False
    needs: tuple[str, ...] = ()
    variant: str = ""

    @property
    def title(self) -> str:
        """The name in texts."""
        return TRANSPORTS[self.word].title + self.variant

    @property
    def label(self) -> str:
        """The name in tables and pictures."""
        return _LABELS.get(self.name) or TRANSPORTS[self.word].label + self.variant

    @property
    def missing(self) -> list[str]:
        """The packages that this machine does not have."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    @property
    def tokens(self) -> bool:
        """Whether the reply arrives token by token."""
        return self.name != "rest"


LANES: dict[str, Lane] = {
    lane.name: lane
    for lane in (
        Lane("rest", "rest"),
        Lane("rest-poll", "rest", {"poll": True}, variant=" long-polling"),
        *(Lane(word, word) for word in TRANSPORTS if word != "rest"),
    )
}
# Other ways to a transport that has a lane already. They need an extra, and run where they are asked for by name.
_HTTP2 = ("zttp", "pyqwest")
FURTHER_LANES: dict[str, Lane] = {
    lane.name: lane
    for lane in (
        Lane("ndjson-h2", "ndjson", {"sender": http2_sender}, http2=True, needs=_HTTP2, variant=" over HTTP/2"),
        Lane("sse-h2", "sse", {"sender": http2_sender}, http2=True, needs=_HTTP2, variant=" over HTTP/2"),
        Lane("grpc-web", "grpc", for_pages=True, page_client=True, needs=("connectrpc",), variant="-Web"),
        # The same servicer on uvicorn: gRPC's wire without grpcio on the server.
        Lane("grpc-asgi", "grpc", for_pages=True, http2=True, needs=("connectrpc", "zttp"), variant=" on uvicorn"),
    )
}
ALL_LANES = LANES | FURTHER_LANES


def lane_title(name: str) -> str:
    """The name of a lane in texts, such as ``Server-Sent Events``; what is no lane of these keeps the name that it has."""
    return ALL_LANES[name].title if name in ALL_LANES else name


def lane_label(name: str) -> str:
    """The name of a lane in tables and pictures, such as ``SSE``; as ``lane_title`` otherwise."""
    return ALL_LANES[name].label if name in ALL_LANES else name


@dataclass(slots=True)
class RunningLane:
    """A lane whose server runs. Clients connect to ``address``: the relay's address where there is a relay.

    ``direct_address`` is the server's own, past any relay; empty: the same as ``address``.
    """

    lane: Lane
    server: Server
    address: str
    relay: Relay | None = None
    direct_address: str = ""

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.server.process.pid

    def client(self, **options: Any) -> ChatClient:
        """A new client of this lane; ``options`` are ChatClient's."""
        transport = TRANSPORTS[self.lane.word]
        make = transport.page_client if self.lane.page_client else transport.client
        return make(self.address, **{"ca": self.server.ca, **self.lane.options, **options})


class RecordedLane(Protocol):
    """What the recording of a turn needs to know of a lane."""

    @property
    def lane(self) -> Lane:
        """The lane."""

    @property
    def relay(self) -> Relay | None:
        """The relay before its server; None where there is none."""


def offline_settings(rate: float, first_ms: float = 0.0) -> dict[str, str]:
    """The settings of a measured server: the offline model and the in-memory store."""
    return {
        "GENAI_PROVIDER": "offline",
        "IMAGE_PROVIDER": "offline",
        "GENAI_MODEL_ID": MODEL_ID,
        "STORE_URL": "sqlite://",
        "OFFLINE_TOKENS_PER_S": f"{rate:g}",
        "OFFLINE_FIRST_TOKEN_MS": f"{first_ms:g}",
        "OFFLINE_TOKENS": "0",
    }


@asynccontextmanager
async def running_lanes(
    names: Sequence[str],
    *,
    rate: float,
    first_ms: float = 0.0,
    faults: Faults | None = None,
    relayed: bool = False,
    env: Mapping[str, str] | None = None,
    tls: bool = False,
    timed: bool = False,
) -> AsyncIterator[dict[str, RunningLane]]:
    """Start the lanes' servers, each with the same offline model and the in-memory store.

    ``rate`` is the model's rate in tokens a second, ``first_ms`` its own time to the first token. ``faults`` or ``relayed`` put a
    relay before each server. ``timed``: the relays keep the times of what passes. ``tls``: the lines are
    encrypted, with a certificate made for this run. Raises RuntimeError with the
    server's own words when a server does not start.
    """
    settings = offline_settings(rate, first_ms) | dict(env or {})
    async with contextlib.AsyncExitStack() as stack:
        if tls:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="genai-certs-", ignore_cleanup_errors=True)))
            certs.make(folder)
            settings |= certs.files(folder)
        for name in names:
            if missing := ALL_LANES[name].missing:
                raise RuntimeError(f'{name} needs {", ".join(missing)}: pip install -e ".[web,http2]"')

        def start(lane: Lane) -> AbstractAsyncContextManager[Server]:
            return serving(lane.word, env=settings | {"HTTP2": "on" if lane.http2 else "off"}, apart=True)

        servers = await asyncio.gather(*(stack.enter_async_context(start(ALL_LANES[name])) for name in names))
        lanes = {}
        for name, server in zip(names, servers, strict=True):
            lane, relay = ALL_LANES[name], None
            url = server.url
            if lane.for_pages:
                if server.page_url is None:
                    raise RuntimeError(
                        f"{name}: the {lane.word} server has no port for pages: {server.log[0]['for_pages']}"
                    )
                url = server.page_url
            direct = url
            if relayed or faults is not None:
                relay = await stack.enter_async_context(Relay(url, faults, timed=timed))
                url = url.replace(url.rpartition("/")[2], relay.address)
            lanes[name] = RunningLane(lane, server, url, relay, direct)
        yield lanes


async def generated_tokens(client: ChatClient, since_ms: float) -> int:
    """Tokens that a server's model has generated in turns that began since then (epoch ms)."""
    total = 0
    for session in (await client.list_sessions(limit=20)).sessions:
        if session.created_at >= since_ms - 1 and session.last_turn_id is not None:
            turn = await client.get_turn(session.last_turn_id)
            total += turn.last_seq - 1 - (turn.status != "running")
    return total


def shuffled(names: Sequence[str], seed: int, number: int) -> list[str]:
    """The order of the lanes in round ``number``."""
    order = list(names)
    random.Random(seed * 1000 + number).shuffle(order)
    return order
