"""The experiments on the line: the servers on its one side, the process of the clients on its other."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from compare.lines.packets.line import CLIENT_ADDRESS, SERVER_ADDRESS, PacketLine, move_client, packet_line
from compare.lines.programs import ARGUMENTS, program
from compare.measuring.lanes import offline_settings
from compare.measuring.packets.jobs import SILENCE_S, Done, Job, Move, Ready, Streams, Target
from compare.measuring.packets.results import Cell, PacketResults, Round, cell_of, moves_of
from compare.measuring.packets.ways import MOVED, WAYS, Connections, Way
from compare.measuring.recording import now_ms
from compare.measuring.setup import setup
from compare.measuring.turns import TurnRecord
from protocols import certs
from protocols.processes import serving

_CADDY_PORT = 8443
_CADDY_READY = b"serving initial configuration"
_START_S = 30.0
_JOB_S = 300.0
_ANSWER_BYTES = 256 * 1024 * 1024
_HEARTBEAT_S = 1.0
_MOVE_AFTER = 20
_MOVE_TOKENS = 60
_SPARE_ADDRESS = "198.18.1.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketPlan:
    """The size of a run. ``losses`` are shares; with ``move_rounds`` 0 the run does not change the client's address."""

    ways: Sequence[str]
    losses: Sequence[float]
    delay_s: float
    streams: int
    tokens: int
    rate: float
    rounds: int
    move_rounds: int
    seed: int

    @property
    def cells(self) -> list[tuple[Way, Connections, float]]:
        """A protocol, its connections and a loss each."""
        return [
            (WAYS[name], connections, loss)
            for loss in self.losses
            for name in self.ways
            for connections in WAYS[name].connections
        ]

    @property
    def start_s(self) -> float:
        """The expected time to make the line and to start the servers on it."""
        return 10.0

    @property
    def rounds_s(self) -> float:
        """The expected time of the rounds on a quiet machine."""
        return self.rounds * len(self.cells) * (self.tokens / self.rate + 0.8)

    @property
    def moves_s(self) -> float:
        """The expected time of the changes of the client's address."""
        return self.move_rounds * 2 * (2 * _MOVE_TOKENS / self.rate + SILENCE_S + 5)

    @property
    def expected_s(self) -> float:
        """The expected time of everything on a quiet machine."""
        return max(self.rounds, self.move_rounds) * self.start_s + self.rounds_s + self.moves_s


@dataclass(slots=True)
class PacketRun:
    """What a run has measured: its results, and the rounds that they are made of."""

    results: PacketResults
    rounds: list[Round]
    moved: list[TurnRecord]


@dataclass(frozen=True, slots=True)
class PacketPart:
    """The rounds that were measured on one line with one set of servers.

    ``dropped`` counts the packets that the carrier has dropped, ``kernel_dropped`` those that the kernel sent and did not receive.
    """

    begun_at: float
    seconds: float
    rounds: list[Round]
    moved: list[TurnRecord]
    dropped: int
    kernel_dropped: int


class Clients:
    """The process of the clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def prepare(self, job: Job) -> None:
        """Connect and warm up. Raises RuntimeError with the process's words when it fails."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        assert isinstance(await self._answer(), Ready)

    async def perform(self) -> list[TurnRecord]:
        """Do the job that was prepared."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        done = await self._answer()
        assert isinstance(done, Done)
        return done.turns

    async def _answer(self) -> Ready | Done:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(_JOB_S):
            line = await self._process.stdout.readline()
            if not line:
                said = (await self._process.stderr.read()).decode(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"the clients broke off: {said}")
        return msgspec.json.decode(line, type=Ready | Done)


async def measure(plan: PacketPlan, tell: Callable[[str], None]) -> PacketRun:
    """Run everything of the plan, each round on a line and on servers of its own, because two starts of the same server differ.

    Raises RuntimeError where the line, a server or the clients do not work.
    """
    parts = []
    for number in range(max(plan.rounds, plan.move_rounds)):
        numbers, move_numbers = ([number] if number < rounds else [] for rounds in (plan.rounds, plan.move_rounds))
        parts.append(await measure_part(plan, numbers, move_numbers, tell))
    return packet_run(plan, parts)


async def measure_part(
    plan: PacketPlan, numbers: Sequence[int], move_numbers: Sequence[int], tell: Callable[[str], None]
) -> PacketPart:
    """Run these rounds of the plan on a new line, and these changes of the client's address. Raises RuntimeError as ``measure``."""
    begun, begun_at = time.monotonic(), now_ms()
    rounds: list[Round] = []
    moved: list[TurnRecord] = []
    async with contextlib.AsyncExitStack() as stack:
        line = await stack.enter_async_context(packet_line(plan.delay_s))
        present = {name: way for name, way in (MOVED | WAYS).items() if not way.missing}
        wanted = {name for name in present if name in plan.ways or (move_numbers and name in MOVED)}
        targets = await stack.enter_async_context(_targets(line, {name: present[name] for name in wanted}, plan.rate))
        clients = await stack.enter_async_context(_clients(line))
        sent, received = await line.kernel_packets()
        dropped = 0
        for number in numbers:
            order = [cell for cell in plan.cells if cell[0].name in targets]
            random.Random(plan.seed * 1000 + number).shuffle(order)
            for way, connections, loss in order:
                tell(f"round {number + 1} of {plan.rounds}: {way.title}, {connections}, loss {loss:.0%}")
                made = await _cell_round(line, clients, plan, targets[way.name], (way, connections, loss), number)
                dropped += made.packets.dropped
                rounds.append(made)
        # A packet that is still on its way has been sent and not received, so the counters would book it as lost.
        await line.set_loss(0, plan.seed)
        await asyncio.sleep(4 * plan.delay_s)
        now_sent, now_received = await line.kernel_packets()
        if move_numbers:
            moving = {name: targets[name] for name in MOVED if name in targets}
            moved += await _moves(line, clients, plan, moving, move_numbers, tell)
    return PacketPart(
        begun_at=begun_at,
        seconds=time.monotonic() - begun,
        rounds=rounds,
        moved=moved,
        dropped=dropped,
        kernel_dropped=(now_sent - sent) - (now_received - received),
    )


def packet_run(plan: PacketPlan, parts: Sequence[PacketPart]) -> PacketRun:
    """What follows from the parts that were measured, at least one."""
    rounds = [one for part in parts for one in part.rounds]
    moved = [turn for part in parts for turn in part.moved]
    cells = [_cell(rounds, key, plan) for key in plan.cells if any(_key(one) == _named(key) for one in rounds)]
    return PacketRun(
        PacketResults(
            begun_at=parts[0].begun_at,
            seconds=sum(part.seconds for part in parts),
            delay_ms=plan.delay_s * 1000,
            streams=plan.streams,
            tokens=plan.tokens,
            rate=plan.rate,
            rounds=len({one.number for one in rounds}),
            seed=plan.seed,
            setup=setup(),
            cells=cells,
            moves=moves_of(moved),
            move_failures=[f"{turn.experiment}, {turn.lane}: {turn.error}" for turn in moved if turn.error],
            unmeasured={way: f"needs {', '.join(WAYS[way].missing)}" for way in plan.ways if WAYS[way].missing},
            dropped=sum(part.dropped for part in parts),
            kernel_dropped=sum(part.kernel_dropped for part in parts),
        ),
        rounds,
        moved,
    )


def _key(one: Round) -> tuple[str, Connections, float]:
    return one.way, one.connections, one.loss


def _named(key: tuple[Way, Connections, float]) -> tuple[str, Connections, float]:
    return key[0].name, key[1], key[2]


def _cell(rounds: Sequence[Round], key: tuple[Way, Connections, float], plan: PacketPlan) -> Cell:
    return cell_of([one for one in rounds if _key(one) == _named(key)], plan.delay_s * 1000)


async def _cell_round(
    line: PacketLine,
    clients: Clients,
    plan: PacketPlan,
    target: Target,
    cell: tuple[Way, Connections, float],
    number: int,
) -> Round:
    way, connections, loss = cell
    await line.set_loss(0, plan.seed)
    await clients.prepare(
        Streams(
            target=target,
            connections=connections,
            streams=plan.streams,
            tokens=plan.tokens,
            rate=plan.rate,
            number=number,
        )
    )
    # The same dice for all cells of a round. The connections are open and warm before a packet is lost.
    await line.set_loss(loss, plan.seed * 1000 + number)
    turns = await clients.perform()
    return Round(way.name, connections, loss, number, turns, await line.packets())


async def _moves(
    line: PacketLine,
    clients: Clients,
    plan: PacketPlan,
    targets: dict[str, Target],
    numbers: Sequence[int],
    tell: Callable[[str], None],
) -> list[TurnRecord]:
    """The client's address changes in mid-answer, in each round once with resume and once without."""
    turns: list[TurnRecord] = []
    addresses = [CLIENT_ADDRESS, _SPARE_ADDRESS]
    device = line.namespaces.device("client")
    for number in numbers:
        for resume in (True, False):
            tell(
                f"the client's address changes, {'with' if resume else 'without'} resume, {number + 1} of {plan.move_rounds}"
            )
            await clients.prepare(
                Move(
                    targets=list(targets.values()),
                    commands=move_client(device, *addresses),
                    after=_MOVE_AFTER,
                    tokens=_MOVE_TOKENS,
                    rate=plan.rate,
                    resume=resume,
                    number=number,
                )
            )
            addresses.reverse()
            turns += await clients.perform()
    return turns


@asynccontextmanager
async def _clients(line: PacketLine) -> AsyncIterator[Clients]:
    process = await asyncio.create_subprocess_exec(
        *line.in_client,
        sys.executable,
        "-m",
        "compare.measuring.packets.clients",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_ANSWER_BYTES,
        process_group=0,
    )
    try:
        yield Clients(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def _targets(line: PacketLine, ways: dict[str, Way], rate: float) -> AsyncIterator[dict[str, Target]]:
    """A server for each of these, on the server's side of the line; Caddy before that of HTTP/3."""
    key = secrets.token_hex(16)
    # A server beyond loopback needs a key.
    settings = offline_settings(rate) | {"API_SECRET_KEY": key, "HEARTBEAT_S": f"{_HEARTBEAT_S:g}"}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="genai-packets-", ignore_cleanup_errors=True))
        )

        async def target(way: Way) -> Target:
            server = await stack.enter_async_context(
                serving(
                    way.lane.word,
                    env=settings | {"HTTP2": "on" if way.lane.http2 else "off"},
                    arguments=("--host", SERVER_ADDRESS),
                    apart=True,
                    within=line.in_server,
                )
            )
            if way.tcp:
                return Target(way=way.name, address=server.url, key=key)
            certs.make(folder / "certs", [SERVER_ADDRESS])
            await stack.enter_async_context(_caddy(line, folder, server.address))
            ca = str(folder / "certs" / certs.CA)
            return Target(way=way.name, address=f"https://{SERVER_ADDRESS}:{_CADDY_PORT}", key=key, ca=ca)

        made = await asyncio.gather(*map(target, ways.values()))
        yield {one.way: one for one in made}


@asynccontextmanager
async def _caddy(line: PacketLine, folder: Path, upstream: str) -> AsyncIterator[None]:
    """Caddy on the server's side of the line: HTTP/3 to the client, HTTP/1.1 to the server.

    Raises RuntimeError with Caddy's words when it does not start.
    """
    path = program("caddy")
    assert path is not None
    site = (
        f"https://{SERVER_ADDRESS}:{_CADDY_PORT} {{\n"
        f"    tls {folder}/certs/{certs.CERT} {folder}/certs/{certs.KEY}\n    reverse_proxy {upstream}\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *line.in_server,
        path,
        *ARGUMENTS["caddy"](folder, site),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        process_group=0,
    )
    assert process.stderr is not None
    said = b""
    reading = None
    try:
        async with asyncio.timeout(_START_S):
            while _CADDY_READY not in said:
                piece = await process.stderr.readline()
                if not piece:
                    raise RuntimeError(f"caddy did not start: {said.decode(errors='replace')[-500:]}")
                said += piece
        reading = asyncio.create_task(process.stderr.read())
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        if reading is not None:
            await reading
