"""Runs the probe over planted faults and clean paths, several at once, each on a server of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from compare.lines.programs import program, reserved_port, running
from compare.lines.relay import Relay
from compare.probing.all_checks import checks_for, probe
from compare.probing.findings import of_outcomes
from compare.probing.outcome import Outcome
from compare.probing.planted.paths import ProbedPath
from compare.probing.steadiness import watching
from compare.probing.subject import Subject
from compare.probing.target import parse_target
from compare.probing.wires import WIRES
from protocols.processes import Server, serving

_KEY = "correct-horse-battery-staple"
_ENV = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "STORE_URL": "sqlite://",
    "API_SECRET_KEY": _KEY,
    "OFFLINE_TOKENS_PER_S": "20",
    "OFFLINE_FIRST_TOKEN_MS": "50",
}


@dataclass(frozen=True, slots=True)
class PathResult:
    """What the probe said on one path. ``error``: the path could not be built."""

    path: ProbedPath
    outcomes: dict[str, Outcome]
    error: str = ""

    @property
    def kinds(self) -> set[str]:
        """The kinds of the findings."""
        return {finding.kind for finding in of_outcomes(self.outcomes.values())}

    @property
    def right(self) -> bool:
        """Whether the probe named the fault, and nothing that is not its effect; on a clean path: whether it was silent."""
        if self.error:
            return False
        expected = {self.path.expected} - {None}
        return expected <= self.kinds <= expected | set(self.path.also)


def missing_programs(paths: Sequence[ProbedPath]) -> set[str]:
    """The programs that the paths need and this machine does not have."""
    return {path.program for path in paths if path.program and program(path.program) is None}


async def run_paths(paths: Sequence[ProbedPath], jobs: int, tell: Callable[[PathResult], None]) -> list[PathResult]:
    """Probe all paths, ``jobs`` at once; ``tell`` gets each result when it is there.

    Results come in the order of the paths.
    """
    results: dict[int, PathResult] = {}
    waiting = list(reversed(list(enumerate(paths))))
    async with contextlib.AsyncExitStack() as stack:
        servers = _Servers(stack)

        async def work() -> None:
            while waiting:
                number, path = waiting.pop()
                results[number] = await _probe_path(path, servers)
                tell(results[number])

        async with asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(work())
    return [results[number] for number in range(len(paths))]


class _Servers:
    """Servers that are used by one path at a time, because a check counts the open streams of its server."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._free: dict[tuple[str, float], list[Server]] = {}

    @asynccontextmanager
    async def several(self, word: str, heartbeat_s: float, count: int) -> AsyncIterator[list[str]]:
        """Take servers for one path. Yields their addresses."""
        free = self._free.setdefault((word, heartbeat_s), [])
        taken = [free.pop() for _ in range(min(count, len(free)))]
        while len(taken) < count:
            env = {**_ENV, "HEARTBEAT_S": f"{heartbeat_s:g}"}
            taken.append(await self._stack.enter_async_context(serving(word, env=env, apart=True)))
        yield [server.address for server in taken]
        free += taken


async def _probe_path(path: ProbedPath, servers: _Servers) -> PathResult:
    outcomes: dict[str, Outcome] = {}
    try:
        async with (
            servers.several(path.wire, path.heartbeat_s, path.servers) as addresses,
            built(path, " ".join(addresses)) as address,
            watching() as steadiness,
        ):
            target = parse_target(address, _KEY)
            subject = Subject(WIRES[path.wire], target, path.patience_s, steadiness)
            with _busy(path.loaded):
                async for check, outcome in probe(subject, checks_for(path.wire)):
                    outcomes[check.name] = outcome
    except (RuntimeError, OSError) as error:
        return PathResult(path, outcomes, str(error))
    return PathResult(path, outcomes)


@asynccontextmanager
async def built(path: ProbedPath, server: str) -> AsyncIterator[str]:
    """Build the path before a server, or before several with spaces between their addresses. Yields the address for the probe.

    Raises RuntimeError when its program does not start.
    """
    if path.faults is not None:
        async with Relay(server, path.faults) as relay:
            yield relay.address
    elif path.config is not None:
        with reserved_port() as port:
            async with running(path.program, port, path.config(port, server, path.wire)) as proxy:
                yield proxy.address
    else:
        yield server


@contextlib.contextmanager
def _busy(loaded: bool) -> Iterator[None]:
    """Keep every core busy in this block: with one process more than there are cores."""
    count = (os.cpu_count() or 1) + 1 if loaded else 0
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=_burn, daemon=True) for _ in range(count)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def _burn() -> None:
    while True:
        pass
