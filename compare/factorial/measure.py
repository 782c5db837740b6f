"""Measures one cell: its server in a process of its own, the load generator in another."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from compare.factorial.cells import FACTORS, Cell
from compare.factorial.effects import Measured
from compare.factorial.server import PATH, content_type, request_body
from compare.measuring.floors.load.job import Job, Mode
from compare.measuring.floors.load.run import run

_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScale:
    """How much is measured of a cell in a round; 0 streams leave a measurement out."""

    streams: int = 8
    tokens: int = 4000
    paced_streams: int = 32
    paced_tokens: int = 60
    idle_streams: int = 500


FULL = FactorScale()
QUICK = FactorScale(tokens=500, paced_streams=8, paced_tokens=25, idle_streams=100)


@dataclass(frozen=True, slots=True)
class RunningCell:
    """A cell whose server runs: the address where the model does not wait, and the one where it is paced."""

    cell: Cell
    pid: int
    address: str
    paced_address: str

    def job(self, mode: Mode, streams: int, message: str, *, paced: bool) -> Job:
        """A load on this cell."""
        return Job(
            wire="marked-http1" if self.cell.http == "HTTP/1.1" else "marked-http2",
            address=self.paced_address if paced else self.address,
            pid=self.pid,
            mode=mode,
            streams=streams,
            path=PATH,
            body=request_body(self.cell, message),
            content_type=content_type(self.cell),
            protobuf=self.cell.encoding == "protobuf",
            stamps=paced,
        )


@asynccontextmanager
async def running_cell(cell: Cell, plant_us: float = 0.0) -> AsyncIterator[RunningCell]:
    """Start a cell's server. Raises RuntimeError with the server's last words when it does not start."""
    levels = [part for factor in FACTORS for part in (f"--{factor}", getattr(cell, factor))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "compare.factorial.server", *levels, "--plant-us", f"{plant_us:g}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        process_group=0,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        try:
            async with asyncio.timeout(_START_S):
                addresses = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
        except TimeoutError:
            raise RuntimeError(f"{cell.name}: the server did not start within {_START_S:g} s") from None
        if not all(addresses):
            words = (await process.stderr.read()).decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"{cell.name}: {words or 'the server did not start'}")
        yield RunningCell(cell, process.pid, *addresses)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def measure(cell: Cell, scale: FactorScale, number: int, plant_us: float = 0.0) -> Measured:
    """One round of one cell, on a server that is started for it. Raises RuntimeError when the server fails."""
    async with running_cell(cell, plant_us) as running:
        return Measured(cell=cell.name, round=number, values=await measure_running(running, scale))


async def measure_running(running: RunningCell, scale: FactorScale) -> dict[str, float]:
    """The values of a cell whose server runs, by metric. Raises RuntimeError when the server fails."""
    values: dict[str, float] = {}
    await run(running.job("burst", 2, "/tokens 50 warm up", paced=False))
    if scale.idle_streams:
        idle = await run(running.job("idle", scale.idle_streams, "/slow 600 wait", paced=False))
        if idle.rss_bytes is not None:
            values["stream_kib"] = idle.rss_bytes / 1024 / scale.idle_streams
    if scale.paced_streams:
        paced = await run(running.job("burst", scale.paced_streams, f"/tokens {scale.paced_tokens} x", paced=True))
        values["bytes"] = paced.bytes / paced.events
        if paced.delay_p50_ms is not None:
            values["delay"] = paced.delay_p50_ms
    if scale.streams:
        full = await run(running.job("burst", scale.streams, f"/tokens {scale.tokens} x", paced=False))
        if full.cpu_s is not None:
            values["server_us"] = full.cpu_s * 1e6 / full.events
    return values
