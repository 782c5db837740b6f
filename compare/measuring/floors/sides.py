"""The processes of the benchmark: floors, real servers, the load generator, each on a core of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from compare.measuring.floors.checkout import start_in
from compare.measuring.floors.floor_process import floor_process
from compare.measuring.floors.further import FURTHER, request_of
from compare.measuring.floors.load.job import Job, Result
from compare.measuring.floors.node_floor import node_server
from compare.measuring.floors.plan import BEFORE, NODE, FloorPlan, FloorRun, Side
from compare.measuring.lanes import LANES
from protocols.processes import serving
from shared.client.protocol import ChatClient

_SERVERS = "compare.measuring.floors.servers"
_LOAD = "compare.measuring.floors.load"
_LOAD_TRIES = 2


@asynccontextmanager
async def floor_server(
    word: str, *arguments: str, certificate: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Side]:
    """A running floor, with the settings of TLS in ``certificate``. Raises RuntimeError when it does not start."""
    module = (f"{_SERVERS}.bare_grpc",) if word == "grpc" else (f"{_SERVERS}.asgi", "--wire", word)
    tls = ("--cert", certificate["TLS_CERT"], "--key", certificate["TLS_KEY"]) if certificate else ()
    async with floor_process((sys.executable, "-m", *module, *tls, *arguments), "floor", word) as side:
        yield replace(side, ca=certificate.get("TLS_CA", ""))


@asynccontextmanager
async def _our_server(
    word: str, name: str, env: Mapping[str, str], certificate: Mapping[str, str], tree: Path | None
) -> AsyncIterator[Side]:
    """The real server of a lane, on the in-memory store or on a SQLite file of its own; ``tree``: of another checkout.

    Raises RuntimeError where a package, TLS or the port for pages is missing.
    """
    lane = FURTHER.get(word) or LANES[word]
    if lane.missing:
        raise RuntimeError(f'{word} needs {", ".join(lane.missing)}: pip install -e ".[web,http2]"')
    with tempfile.TemporaryDirectory(prefix="floor-") as folder:
        url = "sqlite://" if name.startswith("memory") else f"sqlite:///{folder}/chat.db"
        offline = {"GENAI_PROVIDER": "offline", "IMAGE_PROVIDER": "offline", "OFFLINE_FIRST_TOKEN_MS": "0"}
        settings = {**offline, "STORE_URL": url, "HTTP2": "on" if lane.http2 else "off", **certificate, **env}
        begin = None if tree is None else partial(start_in, tree, lane.word, settings)
        async with serving(lane.word, env=settings, start=begin) as server:
            there = server.page_url if lane.for_pages else server.url
            if there is None:
                raise RuntimeError(f"the {lane.word} server has no port for pages")
            if certificate and "s://" not in there:
                raise RuntimeError(f"the {lane.word} server speaks no TLS")
            address, pid = there.rpartition("/")[2], server.process.pid
            yield Side(name, word, address, pid, server, certificate.get("TLS_CA", ""))


@asynccontextmanager
async def running_sides(
    run: FloorRun,
    row: str,
    word: str,
    floor_arguments: Sequence[str],
    env: Mapping[str, str],
    names: Sequence[str] | None = None,
) -> AsyncIterator[list[Side]]:
    """The sides of one lane, all up at once; ``names`` selects some of the run's.

    Raises RuntimeError when one does not start; a server of another checkout is left out of the row then.
    """
    certificate = run.certificate

    def server(name: str) -> contextlib.AbstractAsyncContextManager[Side]:
        floors = {"floor": floor_server, NODE: node_server}
        if name in floors:
            return floors[name](word, *floor_arguments, certificate=certificate)
        return _our_server(word, name, env, certificate, run.plan.beside if name in BEFORE else None)

    async with contextlib.AsyncExitStack() as stack:
        wanted = [name for name in names or run.sides if (row, word, name) not in run.left_out]
        starting = (stack.enter_async_context(server(name)) for name in wanted)
        # Every start is awaited, so that the stack stops all servers that have started.
        started = await asyncio.gather(*starting, return_exceptions=True)
        sides = []
        for name, side in zip(wanted, started, strict=True):
            if isinstance(side, BaseException):
                with run.leaving_out(row, word, name):
                    raise side
                continue
            if run.plan.pin:
                pin(side.pid, 0)
            sides.append(side)
        yield sides


def client(side: Side) -> ChatClient:
    """The transport's own client of the real server; a floor has no chat."""
    assert side.server is not None
    return side.server.client()


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
    fields: dict[str, Any] = {
        "wire": side.word,
        "address": side.address,
        "ca": side.ca,
        "pid": side.pid,
        "mode": mode,
        "streams": streams,
        **more,
    }
    asked = {"message": fields.get("message", ""), "turn_id": fields.get("turn_id"), "path": fields.get("path")}
    return msgspec.convert({**fields, **request_of(side.word, **asked)}, Job)
