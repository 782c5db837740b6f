"""The row ``start``: the time from the start of a server's process to its first answer, and its CPU time until then.

The first start of a server is not counted, because it writes the byte code of the modules, which later starts find.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from compare.measuring.floors.checkout import python_of
from compare.measuring.floors.plan import BEFORE, FLOORS, SERVE_ALL, FloorRun
from compare.measuring.floors.sides import running_sides
from compare.measuring.process_cost import cpu_s
from protocols import TRANSPORTS
from protocols.ports import free_ports_in_a_row
from protocols.processes import LONGEST_LINE_BYTES, start_process, without_tls

# The expected seconds of one start and stop.
START_S = 3.0
# Byte code is written also where the environment of this process forbids it.
_WITH_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": ""}
_LONGEST_S = 60.0
_LOOK_S = 0.01
# The connection preface with an empty SETTINGS (RFC 9113, section 3.4). A server that runs answers with its own SETTINGS.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def on_a_file(sides: Sequence[str]) -> list[str]:
    """The servers on a SQLite file, as a server is without a setting; those in memory where the sides have no other."""
    servers = [name for name in sides if name not in FLOORS]
    return [name for name in servers if name.startswith("sqlite")] or servers


async def start_up(run: FloorRun, word: str) -> None:
    """One server after the other, each in a process of its own; ``serve-all`` starts five with one command."""
    context = _tls(run, word)
    rounds = run.plan.once_rounds
    for number, order in enumerate(run.orders(on_a_file(run.sides), 1 + rounds)):
        for name in order:
            if ("start", word, name) in run.left_out:
                continue
            run.say(f"start {word} {name}, {f'round {number} of {rounds}' if number else 'for the byte code'}")
            with run.leaving_out("start", word, name):
                took_s, used_s = await (_start_five if word == SERVE_ALL else _start_one)(run, word, name, context)
                if number:
                    found = run.result_of("start", word, name)
                    found.took_s.append(took_s)
                    found.cpu_us += [] if used_s is None else [used_s * 1e6]


async def _start_one(run: FloorRun, word: str, name: str, context: ssl.SSLContext | None) -> tuple[float, float | None]:
    """The seconds until the first answer, and the CPU seconds of the server until then."""
    began_s = time.perf_counter()
    async with running_sides(run, "start", word, [], _WITH_BYTE_CODE, [name]) as sides:
        if not sides:
            raise RuntimeError(run.left_out["start", word, name])
        await _answer(sides[0].address, word, context)
        return time.perf_counter() - began_s, cpu_s(sides[0].pid)


async def _start_five(
    run: FloorRun, word: str, name: str, context: ssl.SSLContext | None
) -> tuple[float, float | None]:
    """The seconds until each of the five has answered."""
    began_s = time.perf_counter()
    async with _five(run, name) as addresses:
        await asyncio.gather(*(_answer(address, at, context) for at, address in addresses.items()))
        return time.perf_counter() - began_s, None


def _tls(run: FloorRun, word: str) -> ssl.SSLContext | None:
    if not run.certificate:
        return None
    context = ssl.create_default_context(cafile=run.certificate["TLS_CA"])
    if word == "grpc":
        context.set_alpn_protocols(["h2"])
    return context


async def _answer(address: str, word: str, context: ssl.SSLContext | None) -> None:
    """Ask until the first bytes of an answer have come. Raises RuntimeError when none comes in time."""
    host, _, port = address.rpartition(":")
    asked = b"GET /health HTTP/1.1\r\nHost: %b\r\n\r\n" % address.encode()
    try:
        async with asyncio.timeout(_LONGEST_S):
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
                    with contextlib.closing(writer):
                        writer.write(_PREFACE if word == "grpc" else asked)
                        if await reader.read(1):
                            return
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise RuntimeError(f"the {word} server has not answered after {_LONGEST_S:g} s") from None


@asynccontextmanager
async def _five(run: FloorRun, name: str) -> AsyncIterator[dict[str, str]]:
    """``serve all``, on a store of its own: the addresses by transport, while it starts."""
    tree = run.plan.beside if name in BEFORE else None
    # The sixth port is gRPC's port for pages.
    first = free_ports_in_a_row(len(TRANSPORTS) + 1)
    with tempfile.TemporaryDirectory(prefix="floor-", ignore_cleanup_errors=True) as folder:
        settings = {
            "GENAI_PROVIDER": "offline",
            "IMAGE_PROVIDER": "offline",
            "STORE_URL": f"sqlite:///{folder}/chat.db",
            **run.certificate,
        }
        env = {**os.environ, **_WITH_BYTE_CODE, **without_tls(), **settings}
        python = sys.executable
        if tree is not None:
            env["PYTHONPATH"] = str(tree)
            python = python_of(tree)
        command = [python, "-m", "protocols", "serve", "all", "--port-base", str(first)]
        process = await start_process(command, env, apart=True, limit=LONGEST_LINE_BYTES, folder=tree)
        said = asyncio.create_task(process.communicate())
        try:
            yield {word: f"127.0.0.1:{first + nth}" for nth, word in enumerate(TRANSPORTS)}
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            await _end(process, said)


async def _end(process: asyncio.subprocess.Process, said: asyncio.Task[tuple[bytes, bytes]]) -> None:
    try:
        await asyncio.wait_for(asyncio.shield(said), 20)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await said
