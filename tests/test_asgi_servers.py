"""The WebSocket leaf on two other ASGI servers than uvicorn: it speaks ASGI's public messages and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from protocols import TRANSPORTS
from protocols.websocket.server import router
from shared.config import Settings
from shared.server.http.app import create_app
from shared.server.launch import open_context
from tests.conftest import FAST, until
from tests.parts import part
from tests.raw_websocket import PROTOCOL, checked_text, raw


@dataclass(frozen=True)
class Running:
    """A server in this process."""

    address: str


@asynccontextmanager
async def hypercorn(app: Any, port: int) -> AsyncIterator[None]:
    """The app on hypercorn, until the block is left."""
    part("hypercorn")
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    yield
    stop.set()
    await serving


@asynccontextmanager
async def granian(app: Any, port: int) -> AsyncIterator[None]:
    """The app on granian, until the block is left."""
    part("granian")
    from granian.constants import Interfaces
    from granian.server.embed import Server

    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    yield
    server.stop()  # type: ignore[no-untyped-call]
    await serving


@pytest.fixture(params=[hypercorn, granian], ids=["hypercorn", "granian"])
async def elsewhere(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """The WebSocket server's app on another ASGI server."""
    given = {name.lower(): value for name, value in FAST.items()}
    settings = Settings(_env_file=None, store_url="sqlite://", **given)  # type: ignore[arg-type]
    opening = open_context(TRANSPORTS, "websocket", "another ASGI server", settings, host="127.0.0.1", port=0)
    async with opening as (context, _):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        async with request.param(create_app(context, router, "A chat"), port):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

                async def answers() -> bool:
                    try:
                        return (await http.get("/health")).status_code == 200
                    except httpx.TransportError:
                        return False

                await until(answers)
            yield Running(f"127.0.0.1:{port}")


async def test_a_conversation(elsewhere: Running) -> None:
    async with raw(elsewhere) as one:
        assert one.subprotocol == PROTOCOL
        one.say(type="chat", message="/tokens 300 My name is Ada.")
        first = await one.turn()
        assert checked_text(first)
        assert len(first) == 302
        one.text("no JSON")
        assert (await one.hear())["code"] == "invalid_request"
        one.say(type="ping")
        assert await one.hear() == {"type": "pong"}
        one.say(type="image", prompt="a lighthouse", size="256x256")
        events = await one.turn()
        final = [event["image_id"] for event in events if event["type"] == "image_completed"]
        data = b"".join(event["data"] for event in events if event.get("image_id") in final and "bytes" in event)
        assert hashlib.sha256(data).hexdigest() == events[-1]["sha256"]
        one.binary(b"{}")
        assert await one.closed() == 1003


async def test_a_refused_handshake(elsewhere: Running) -> None:
    async with raw(elsewhere, headers={"Origin": "http://evil.example"}, connected=False) as one:
        assert one.status == 403


async def test_a_turn_that_two_connections_read(elsewhere: Running) -> None:
    async with raw(elsewhere) as one, raw(elsewhere) as two:
        one.say(type="chat", message="/tokens 40 /stall 0.5 hello")
        before = [await one.hear() for _ in range(10)]
        one.abort()
        two.say(type="resume", turn_id=before[0]["turn_id"], after=10)
        assert (await two.hear())["type"] == "resumed"
        assert checked_text(before + await two.turn(before[0]["turn_id"]))
