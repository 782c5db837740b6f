"""What one peer without a key does to others: ``/health`` beside each attack, and the memory that stays.

``python -m tests.faults bombs`` prints a line an attack and a server: the p99 of /health without it and beside it, in milliseconds,
and the resident memory before, at most, and after. Bounds: 250 ms, or five times the p99 without the attack where that is more;
64 MiB more than before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protocols.processes import Server, serving
from tests.faults.attacks import ATTACKS, Attack
from tests.faults.harness import SETTINGS, say

KEY = "a-key-that-nobody-has"
P99_MS = 250.0
TIMES = 5
MEMORY_MIB = 64
_BETWEEN_S = 0.03
_PATIENCE_S = 15.0
_SETTLE_S = 12.0

Probe = Callable[[], Awaitable[None]]


@dataclass
class Measured:
    """One attack on one server. Times in milliseconds, memory in MiB; a probe that failed counts as infinitely long."""

    name: str
    word: str
    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    before_mib: float = 0.0
    peak_mib: float = 0.0
    after_mib: float = 0.0
    sent: dict[str, Any] = field(default_factory=dict)
    alive: bool = True
    limit: str = ""

    @property
    def bound_ms(self) -> float:
        """The longest p99 that is allowed."""
        return max(P99_MS, TIMES * p99(self.alone_ms))

    @property
    def faults(self) -> list[str]:
        """The measurements that are not within their bounds."""
        found = []
        if not self.alive:
            found.append("the server has died")
        if p99(self.alone_ms) == float("inf"):
            found.append("/health does not answer without the attack")
        if p99(self.beside_ms) > self.bound_ms:
            found.append(f"/health p99 {p99(self.beside_ms):.0f} ms > {self.bound_ms:.0f} ms")
        if self.after_mib > self.before_mib + MEMORY_MIB:
            found.append(f"memory {self.after_mib:.0f} MiB after, {self.before_mib:.0f} before")
        return found

    def __str__(self) -> str:
        return (
            f"{self.word:<10} {self.name:<26} /health p99 {p99(self.alone_ms):>6.1f} ms alone, {p99(self.beside_ms):>7.1f} beside"
            f" ({len(self.beside_ms)} probes)  memory {self.before_mib:.0f}, {self.peak_mib:.0f}, {self.after_mib:.0f} MiB"
            f"  sent {self.sent.get('sent_bytes', 0) / 1e6:.1f} MB on {self.sent.get('connections', 0)} connections"
            f"  {self.sent.get('ended', '')}  {'; '.join(self.faults) or 'ok'}"
            + (f" (a known limit: {self.limit})" if self.limit and self.faults else "")
        )


def p99(times_ms: Iterable[float]) -> float:
    """The 99th percentile, by nearest rank."""
    ordered = sorted(times_ms)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] if ordered else 0.0


@asynccontextmanager
async def probing(server: Server) -> AsyncIterator[Probe]:
    """A probe of a server's health: over HTTP on a new connection, over gRPC a call on a channel that is open."""
    if server.word == "grpc":
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)

            async def check() -> None:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)

            await check()
            yield check
        return
    host, _, port = server.address.rpartition(":")
    request = f"GET /health HTTP/1.1\r\nHost: {server.address}\r\nConnection: close\r\n\r\n".encode()

    async def get() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        status = await reader.readline()
        writer.transport.abort()
        if b" 200 " not in status:
            raise ConnectionError(status)

    yield get


async def probe_for(probe: Probe, seconds: float) -> list[float]:
    """Probe at a steady pace, also while answers are late. Returns the time of each answer in milliseconds."""
    times_ms: list[float] = []

    async def once() -> None:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await probe()
        except (OSError, TimeoutError, grpc.aio.AioRpcError):
            times_ms.append(float("inf"))
        else:
            times_ms.append((time.monotonic() - begun) * 1000)

    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < until:
            group.create_task(once())
            await asyncio.sleep(_BETWEEN_S)
    return times_ms


def resident_mib(pid: int) -> float:
    """The resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measure(attack: Attack, server: Server, seconds: float) -> Measured:
    """One attack on a server, with probes of its health at the same time."""
    found = Measured(attack.name, server.word, limit=attack.limit)
    pid = server.process.pid
    async with probing(server) as probe:
        found.alone_ms = await probe_for(probe, max(2.0, seconds / 2))
        found.before_mib = found.peak_mib = resident_mib(pid)

        async def watch_memory() -> None:
            with contextlib.suppress(OSError):
                while True:
                    found.peak_mib = max(found.peak_mib, resident_mib(pid))
                    await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch_memory())
        attacking = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.attacks",
            attack.name,
            server.address,
            str(seconds),
            stdout=asyncio.subprocess.PIPE,
        )
        probes = asyncio.create_task(probe_for(probe, seconds))
        said, _ = await attacking.communicate()
        found.beside_ms = await probes
        found.sent = json.loads(said)
        deadline = time.monotonic() + _SETTLE_S
        found.alive = server.process.returncode is None
        with contextlib.suppress(OSError):
            found.after_mib = resident_mib(pid)
            while found.after_mib > found.before_mib + MEMORY_MIB and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
                found.after_mib = resident_mib(pid)
        watching.cancel()
    return found


async def bombs(names: Iterable[str], words: Iterable[str], seconds: float) -> AsyncIterator[Measured]:
    """Each attack on a fresh server of each word."""
    env = {**SETTINGS, "STORE_URL": "sqlite://", "API_SECRET_KEY": KEY}
    for name in names:
        attack = ATTACKS[name]
        for word in words:
            if word in attack.words:
                async with serving(word, env=env) as server:
                    yield await measure(attack, server, seconds)


async def main(names: list[str], words: list[str], seconds: float) -> int:
    """Print a line for each, and return the number of faults. Those of a known limit are printed, and count where a server dies."""
    bad = 0
    async for measured in bombs(names or list(ATTACKS), words, seconds):
        say(str(measured))
        bad += len(measured.faults) if not measured.limit or not measured.alive else 0
    return bad
