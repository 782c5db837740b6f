"""A job of the load generator from its first connection to its result.

The server's CPU time and memory are read at both ends of the window.
"""

from __future__ import annotations

import asyncio
import gc
import math
import ssl
import time
from dataclasses import dataclass

from compare.measuring.floors.load.connection import LoadConnection
from compare.measuring.floors.load.counts import Counts
from compare.measuring.floors.load.http1 import Http1Connection
from compare.measuring.floors.load.http2 import Http2Connection
from compare.measuring.floors.load.job import Job, Result
from compare.measuring.floors.load.marked import MarkedHttp1Connection, MarkedHttp2Connection, WholeHttp2Connection
from compare.measuring.floors.load.websocket import WebSocketConnection
from compare.measuring.process_cost import cpu_s, rss_bytes
from compare.measuring.statistics import quantile

_CONNECTS_AT_ONCE = 64
_FIRST_STREAMS = 100
_LOOK_S = 0.1
_LONGEST_WINDOW = 8
_GOLDEN = (math.sqrt(5) - 1) / 2

_CONNECTIONS: dict[str, type[LoadConnection]] = {
    "rest": Http1Connection,
    "ndjson": Http1Connection,
    "sse": Http1Connection,
    "websocket": WebSocketConnection,
    "grpc": Http2Connection,
    "marked-http1": MarkedHttp1Connection,
    "marked-http2": MarkedHttp2Connection,
    "whole-http2": WholeHttp2Connection,
}


async def run(job: Job) -> Result:
    """Do the job. Raises RuntimeError with the server's words when the server does not answer as expected."""
    counts = Counts(job)
    connections: list[LoadConnection] = []
    working = asyncio.create_task(_idle(counts, connections) if job.mode == "idle" else _load(counts, connections))
    try:
        async with asyncio.timeout(job.timeout_s):
            await asyncio.wait((working, counts.failure), return_when=asyncio.FIRST_COMPLETED)
        if counts.failure.done():
            raise RuntimeError(counts.failure.result())
        return working.result()
    finally:
        working.cancel()
        for connection in connections:
            connection.close()


async def _open(counts: Counts, count: int, connections: list[LoadConnection]) -> list[LoadConnection]:
    """Open this many connections, add them to ``connections``, and return them when all can be used."""
    host, _, port = counts.job.address.rpartition(":")
    loop = asyncio.get_running_loop()
    opened: list[LoadConnection] = []
    tls = _tls(counts.job)

    def make() -> LoadConnection:
        connection = _CONNECTIONS[counts.job.wire](counts)
        connections.append(connection)
        return connection

    for start in range(0, count, _CONNECTS_AT_ONCE):
        batch = min(_CONNECTS_AT_ONCE, count - start)
        made = await asyncio.gather(*(loop.create_connection(make, host, int(port), ssl=tls) for _ in range(batch)))
        opened += [connection for _, connection in made]
        await asyncio.gather(*(connection.ready for connection in opened[start:]))
    return opened


def _tls(job: Job) -> ssl.SSLContext | None:
    """A context that trusts the job's CA and offers the version of HTTP that the wire speaks; None without TLS."""
    if not job.ca:
        return None
    context = ssl.create_default_context(cafile=job.ca)
    context.set_alpn_protocols(["h2" if issubclass(_CONNECTIONS[job.wire], Http2Connection) else "http/1.1"])
    return context


async def _load(counts: Counts, connections: list[LoadConnection]) -> Result:
    job = counts.job
    opened = await _open(counts, job.streams, connections)
    gc.collect()
    gc.freeze()
    before = _Mark.now(counts)
    begun = time.perf_counter()
    for nth, (connection, offset) in enumerate(zip(opened, offsets(job.streams, job.spread_s), strict=True)):
        if nth % 64 == 63 or offset:
            await asyncio.sleep(max(begun + offset - time.perf_counter(), 0.0))
        connection.ask()
    if job.mode != "burst":
        await counts.all_begun(job.streams)
        await asyncio.sleep(job.warm_s)
        if job.mode == "once" and counts.ended:
            raise RuntimeError("the turn ended before all readers were connected")
        before = _Mark.now(counts)
        counts.first_ms.clear()
        counts.ttft_ms.clear()
        counts.delays_ms.clear()
    if job.mode == "loop":
        await asyncio.sleep(job.seconds)
        for _ in range(int((_LONGEST_WINDOW - 1) * job.seconds / _LOOK_S)):
            used = cpu_s(job.pid)
            if used is None or before.cpu_s is None or used - before.cpu_s >= job.least_cpu_s:
                break
            await asyncio.sleep(_LOOK_S)
    else:
        await counts.all_ended(job.streams)
    return _result(counts, before, _Mark.now(counts))


def offsets(streams: int, spread_s: float) -> list[float]:
    """When each stream asks first, in seconds from the first one on, growing.

    The streams are spread over ``spread_s``, as readers who come at any time are. Steps of one size could be a multiple of
    the time between two tokens. Then the tokens of all streams come at the same moments, one commit takes them all, and a
    token looks cheaper than it is. Multiples of the golden ratio meet no such time, and they leave no large gap.
    """
    return sorted(nth * _GOLDEN % 1.0 * spread_s for nth in range(streams))


async def _idle(counts: Counts, connections: list[LoadConnection]) -> Result:
    job = counts.job
    # The first streams make the server's allocator grow; that memory is not the streams'.
    for connection in await _open(counts, _FIRST_STREAMS, connections):
        connection.ask()
    await counts.all_begun(_FIRST_STREAMS)
    for connection in connections:
        connection.close()
    connections.clear()
    await asyncio.sleep(0.7)
    before = _Mark.now(counts)
    rss_before = rss_bytes(job.pid)
    # Each batch asks at once, because a server closes a connection over HTTP/2 that nothing was asked on for some seconds.
    for start in range(0, job.streams, _CONNECTS_AT_ONCE):
        for connection in await _open(counts, min(_CONNECTS_AT_ONCE, job.streams - start), connections):
            connection.ask()
    await counts.all_begun(_FIRST_STREAMS + job.streams)
    await asyncio.sleep(1)
    result = _result(counts, before, _Mark.now(counts))
    rss_after = rss_bytes(job.pid)
    result.rss_bytes = None if rss_after is None or rss_before is None else rss_after - rss_before
    return result


@dataclass(frozen=True, slots=True)
class _Mark:
    """The counts at one end of the window; ``cpu_s`` is the server's, ``load_cpu_s`` this process's."""

    at_s: float
    cpu_s: float | None
    proxy_cpu_s: float | None
    load_cpu_s: float
    events: int
    turns: int
    bytes: int

    @classmethod
    def now(cls, counts: Counts) -> _Mark:
        return cls(
            time.perf_counter(),
            cpu_s(counts.job.pid),
            None if counts.job.proxy_pid is None else cpu_s(counts.job.proxy_pid),
            time.process_time(),
            counts.events,
            counts.turns,
            counts.bytes,
        )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _result(counts: Counts, before: _Mark, after: _Mark) -> Result:
    return Result(
        seconds=after.at_s - before.at_s,
        cpu_s=_difference(before.cpu_s, after.cpu_s),
        proxy_cpu_s=_difference(before.proxy_cpu_s, after.proxy_cpu_s),
        load_cpu_s=after.load_cpu_s - before.load_cpu_s,
        events=after.events - before.events,
        turns=after.turns - before.turns,
        bytes=after.bytes - before.bytes,
        rss_bytes=rss_bytes(counts.job.pid),
        first_p50_ms=quantile(counts.first_ms, 0.5),
        ttft_p50_ms=quantile(counts.ttft_ms, 0.5),
        delay_p50_ms=quantile(counts.delays_ms, 0.5),
        delay_p99_ms=quantile(counts.delays_ms, 0.99),
    )
