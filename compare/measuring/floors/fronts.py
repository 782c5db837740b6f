"""What a proxy costs that speaks HTTP/2 to browsers and HTTP/1.1 to the server: its CPU time an event beside the server's own."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from compare.lines.fronts import FRONTS, Certificate
from compare.lines.programs import program, reserved_port, running
from compare.measuring.floors.load.job import Result
from compare.measuring.floors.plan import PACED_PER_S, PACED_STREAMS, FloorPlan, FloorRun, Side
from compare.measuring.floors.sides import job, load, running_sides
from compare.measuring.statistics import ENOUGH_ROUNDS
from protocols import certs
from shared.client.tls import client_context

# The lanes whose answers a proxy can carry over HTTP/2.
LANES = ("ndjson", "sse")
PLAIN, OWN = "none: HTTP/1.1", "none: TLS and HTTP/2 by the server"
_TOKENS = int(PACED_PER_S * 2)
_START_S, _WINDOW_S = 8.0, 3.5


@dataclass(slots=True)
class FrontCost:
    """The CPU time an event of a lane behind one front, in µs, and the delay of an event, a value a round."""

    lane: str
    front: str
    server_us: list[float] = field(default_factory=list)
    proxy_us: list[float] = field(default_factory=list)
    delay_p50_ms: list[float] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add a round."""
        if result.cpu_s is not None and result.events:
            self.server_us.append(result.cpu_s * 1e6 / result.events)
        if result.proxy_cpu_s is not None and result.events:
            self.proxy_us.append(result.proxy_cpu_s * 1e6 / result.events)
        if result.delay_p50_ms is not None:
            self.delay_p50_ms.append(result.delay_p50_ms)


@dataclass(frozen=True, slots=True)
class Front:
    """What the load generator connects to: ``side`` has the address; the process ids are the server's and the proxy's."""

    name: str
    side: Side
    proxy_pid: int | None = None


def installed() -> list[str]:
    """The proxies that this machine has."""
    return [name for name in FRONTS if program(name)]


def expected_s(plan: FloorPlan) -> float:
    """About how long ``measure`` takes for all lanes of the plan."""
    return len(plan.words) * (_START_S + plan.rounds * (2 + len(installed())) * (plan.seconds + _WINDOW_S))


def conclusion(costs: Sequence[FrontCost]) -> str | None:
    """The sentence with figures in docs/http2.md, from this run; None where no proxy was measured."""
    found = {
        name: [statistics.median(cost.proxy_us) for cost in costs if cost.front == name and cost.proxy_us]
        for name in FRONTS
    }
    names = [name for name, medians in found.items() if medians]
    if not names:
        return None
    all_us = [value for medians in found.values() for value in medians]
    alone = {
        front: [statistics.median(cost.server_us) for cost in costs if cost.front == front and cost.server_us]
        for front in (PLAIN, OWN)
    }
    said = f"The proxy took {_from_to(all_us)} µs of CPU time an event ({', '.join(names)})"
    if all(alone.values()):
        plain, own = _from_to(alone[PLAIN]), _from_to(alone[OWN])
        said += f"; the server alone took {plain} µs without TLS, {own} µs with TLS and HTTP/2 of its own"
    rounds = min(len(cost.proxy_us) for cost in costs if cost.proxy_us)
    lacking = f" A claim needs {ENOUGH_ROUNDS} rounds: --rounds {ENOUGH_ROUNDS}." if rounds < ENOUGH_ROUNDS else ""
    return f"{said}.{lacking}"


def _from_to(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


async def measure(run: FloorRun, lane: str) -> list[FrontCost]:
    """A lane behind each proxy of this machine, behind none, and over the server's own HTTP/2, in shuffled rounds.

    The load is that of the row ``paced``. Raises RuntimeError when a server or a proxy does not start.
    """
    async with running_fronts(run, lane) as fronts:
        found = {front.name: FrontCost(lane, front.name) for front in fronts}
        for number, order in enumerate(run.orders(fronts, run.plan.rounds)):
            for front in order:
                run.say(f"{lane} behind {front.name}, round {number + 1} of {run.plan.rounds}")
                fields = {
                    "message": f"/tokens {_TOKENS} floor",
                    "seconds": run.plan.seconds,
                    "stamps": True,
                    "spread_s": 1.0,
                    "proxy_pid": front.proxy_pid,
                }
                asked = job(front.side, "loop", PACED_STREAMS, **fields)
                try:
                    found[front.name].add(await load(run.plan, asked))
                except RuntimeError as error:
                    raise RuntimeError(f"{front.name}: {error}") from error
    return list(found.values())


@asynccontextmanager
async def running_fronts(run: FloorRun, lane: str) -> AsyncIterator[list[Front]]:
    """The lane's server behind no proxy, another server that speaks TLS and HTTP/2 itself, and each proxy before the first."""
    env = {"OFFLINE_TOKENS_PER_S": str(PACED_PER_S)}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fronts-", ignore_cleanup_errors=True)))
        certs.make(folder)
        settings = certs.files(folder)
        encrypted = FloorRun(run.plan, run.say, certificate=settings)
        (plain,) = await stack.enter_async_context(running_sides(run, "", lane, [], env, ["memory"]))
        (own,) = await stack.enter_async_context(running_sides(encrypted, "", f"{lane}-h2", [], env, ["memory"]))
        fronts = [Front(PLAIN, plain), Front(OWN, own)]
        both = folder / "both.pem"
        both.touch(0o600)
        both.write_bytes((folder / certs.CERT).read_bytes() + (folder / certs.KEY).read_bytes())
        certificate = Certificate(folder / certs.CERT, folder / certs.KEY, both)
        tls = client_context(folder / certs.CA)
        for name in installed():
            port = stack.enter_context(reserved_port())
            lines = FRONTS[name](port, plain.address, certificate)
            proxy = await stack.enter_async_context(running(name, port, lines, tls))
            side = replace(plain, word=f"{lane}-h2", address=proxy.address, ca=settings["TLS_CA"])
            fronts.append(Front(name, side, proxy.pid))
        yield fronts
