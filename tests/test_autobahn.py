"""Autobahn's WebSocket cases (RFC 6455), run by kosoku against the servers' own protocol class with an echo app behind it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from shared.config import Settings
from shared.server.http.serving import uvicorn_config
from shared.server.http.uvicorn_adapter import AdaptedServer
from shared.server.launch import listen
from tests.parts import part

GROUPS = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
# The results that Autobahn counts as passed.
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send each message back unchanged."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


@pytest.mark.timeout(300)
async def test_every_case_passes(tmp_path: Path) -> None:
    part("kosoku")
    settings = Settings(_env_file=None)
    listener = listen("127.0.0.1", 0, settings.stall_timeout_s)
    server = AdaptedServer(uvicorn_config(echo, settings))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    included = [word for group in GROUPS for word in ("-i", group)]
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    kosoku = Path(sys.executable).with_name("kosoku")
    process = await asyncio.create_subprocess_exec(
        kosoku, *included, "-p", "4", "-o", tmp_path, address,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    server.should_exit = True
    await serving
    (report,) = json.loads((tmp_path / "index.json").read_text()).values()
    assert len(report) == 247, said.decode()[-2000:]
    failed = {
        case: (outcome["behavior"], outcome["behaviorClose"])
        for case, outcome in report.items()
        if not {outcome["behavior"], outcome["behaviorClose"]} <= PASSED
    }
    assert not failed
