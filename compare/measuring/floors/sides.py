"""The processes of the benchmark: floors, real servers, the load generator, each on a core of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from compare.measuring.floors.load.job import Job, Result
from compare.measuring.floors.plan import FloorPlan, Side
from protocols import TRANSPORTS
from protocols.processes import serving
from shared.client.protocol import ChatClient

_SERVERS = "compare.measuring.floors.servers"
_LOAD = "compare.measuring.floors.load"
_LOAD_TRIES = 2


@asynccontextmanager
async def floor_server(word: str, *arguments: str) -> AsyncIterator[Side]:
    """A running floor. Raises RuntimeError when it does not start."""
    module = (f"{_SERVERS}.bare_grpc",) if word == "grpc" else (f"{_SERVERS}.asgi", "--wire", word)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"the floor of {word} did not start")
        yield Side("floor", word, address, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def _our_server(word: str, store: str, env: Mapping[str, str]) -> AsyncIterator[Side]:
    """The real server of a transport, on the in-memory store or on a SQLite file of its own."""
    with tempfile.TemporaryDirectory(prefix="floor-") as folder:
        url = "sqlite://" if store == "memory" else f"sqlite:///{folder}/chat.db"
        offline = {"GENAI_PROVIDER": "offline", "IMAGE_PROVIDER": "offline", "OFFLINE_FIRST_TOKEN_MS": "0"}
        async with serving(word, env={**offline, "STORE_URL": url, **env}) as server:
            yield Side(store, word, server.address, server.process.pid)


@asynccontextmanager
async def running_sides(
    plan: FloorPlan,
    word: str,
    floor_arguments: Sequence[str],
    env: Mapping[str, str],
    names: Sequence[str] | None = None,
) -> AsyncIterator[list[Side]]:
    """The sides of one transport, all up at once; ``names`` selects some of the plan's."""
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for name in names or plan.sides:
            server = floor_server(word, *floor_arguments) if name == "floor" else _our_server(word, name, env)
            side = await stack.enter_async_context(server)
            if plan.pin:
                pin(side.pid, 0)
            sides.append(side)
        yield sides


def client(side: Side) -> ChatClient:
    """A client of the real server; a floor has no chat."""
    return TRANSPORTS[side.word].client(side.address)


def pin(pid: int, core: int) -> None:
    """Keep a process, with its present threads, on one of the cores; nothing happens where this is not possible."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(thread.name), {cores[core]})


async def load(plan: FloorPlan, job: Job) -> Result:
    """Run the load generator in a process of its own. Raises RuntimeError with its last words when it fails."""
    words = b""
    for _ in range(_LOAD_TRIES):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _LOAD,
            msgspec.json.encode(job).decode(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if plan.pin:
            with contextlib.suppress(OSError):
                pin(process.pid, -1)
        out, words = await process.communicate()
        if process.returncode == 0:
            return msgspec.json.decode(out, type=Result)
    raise RuntimeError(words.decode(errors="replace").strip().rpartition("\n")[2] or "the load generator failed")


def job(side: Side, mode: str, streams: int, **more: object) -> Job:
    """A job on a side; ``more`` are fields of ``Job``."""
    fields = {"wire": side.word, "address": side.address, "pid": side.pid, "mode": mode, "streams": streams}
    return msgspec.convert({**fields, **more}, Job)
