"""What every check uses: servers that may die, readers that record what they were shown, and the comparison of the two.

Nothing here relies on the client's own checks: what a reader was shown is compared with the store's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import apsw
import msgspec

from compare.measuring.lanes import LANES, Lane
from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, Rewound
from shared.errors import ChatError, ConnectionLost
from shared.events import TERMINAL, TERMINAL_STATUS, AnyEvent, Chunk, TurnFailed, event_type
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from shared.reply import Picture, Reply
from shared.session import short_turn

# By turn id: the turn's fields, and its events as the log has them.
Logs = dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]
WORDS = tuple(TRANSPORTS)
PATIENCE_S = 30.0
_EXAMPLES = 40
SETTINGS = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "OFFLINE_TOKENS_PER_S": "1000",
    "OFFLINE_FIRST_TOKEN_MS": "0",
}
# On a line that did not break, an end that is stored while nothing is shown for this long is a fault. A client that reads on
# without a pause is only slow: grpcio hands over one message in two turns of the event loop, and this loop has many clients.
LATE_S = 10.0


@dataclass
class Totals:
    """The counts of a check. All faults must be zero; ``runs`` and ``notes`` say what was done.

    ``leases``: how long the turns of dead servers went on, in leases.
    """

    kind: str
    seed: int
    runs: int = 0
    lost: int = 0
    twice: int = 0
    generated: int = 0
    ends: int = 0
    hashes: int = 0
    other: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    elapsed_s: float = 0.0
    leases: list[float] = field(default_factory=list)

    def blame(self, what: str, where: str, count: int = 1) -> None:
        """Count a fault, and keep the first few as examples."""
        setattr(self, what, getattr(self, what) + count)
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{what}: {where}")

    @property
    def bad(self) -> int:
        """The sum of all faults."""
        return self.lost + self.twice + self.generated + self.ends + self.hashes + self.other

    def __str__(self) -> str:
        notes = ", ".join(f"{name} {count}" for name, count in sorted(self.notes.items()))
        if self.leases:
            half = sorted(self.leases)[len(self.leases) // 2]
            notes += f"; ended after {half:.2f} leases (half of them), {max(self.leases):.2f} at most"
        return (
            f"{self.kind:<12} {self.runs:>5} runs  lost {self.lost}  twice {self.twice}  generated twice {self.generated}"
            f"  ends wrong {self.ends}  hash wrong {self.hashes}  other {self.other}"
            f"  seed {self.seed}  {self.elapsed_s:.0f} s  ({notes}; slowest {self.slowest[0]:.1f} s: {self.slowest[1]})"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of a check to run: ``share`` of its full size, ``parallel`` runs at a time, on the transports ``words``."""

    seed: int
    share: float = 1.0
    parallel: int = 8
    words: tuple[str, ...] = WORDS

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that are to be tried."""
        return [lane for lane in LANES.values() if lane.word in self.words]

    @property
    def event_lanes(self) -> list[Lane]:
        """The lanes that show events; plain REST shows none."""
        return [lane for lane in self.lanes if lane.tokens]

    def count(self, full: int, least: int = 1) -> int:
        """``full`` in a full run, fewer in a sample."""
        return max(least, round(full * self.share))

    def random(self, *name: object) -> random.Random:
        """Random numbers for one run, which do not depend on other runs."""
        return random.Random(":".join(map(str, (self.seed, *name))))

    def pick(self, full: int, least: int = 1) -> list[int]:
        """The numbers of the runs to do: all of ``full``, or a sample with the first and the last."""
        count = self.count(full, least)
        if count >= full:
            return list(range(full))
        between = self.random("pick").sample(range(1, full - 1), max(0, count - 2))
        return sorted({0, *between, full - 1})


@dataclass
class Shown:
    """The events of one turn that a client was shown, in order. A turn that another client reads on stays one ``Shown``.

    ``rewound``: how many events were shown and then taken back, because no store has them.
    """

    asked: str
    events: list[AnyEvent] = field(default_factory=list)
    whole: Reply | Picture | None = None
    lost: int = 0
    broken_off: int = 0
    resumed: int = 0
    rewound: int = 0
    late_s: float = 0.0
    error: Exception | None = None
    done: bool = False

    async def follow(self, items: AsyncGenerator[Item, None], until: Callable[[Shown], bool] | None = None) -> Shown:
        """Read to the end, or until ``until`` returns True after an event."""
        shown_at = [time.time()]
        try:
            async with aclosing(items):
                async for item in items:
                    shown_at.append(time.time())
                    match item:
                        case Lost():
                            self.lost += 1
                            self.broken_off += item.after > 0
                        case Reconnected():
                            self.resumed += 1
                        case Rewound():
                            self.rewound += max(1, item.after - item.last_seq)
                            self.events.clear()
                        case Reply() | Picture():
                            self.whole = item
                        case _:
                            self.events.append(item)
                            if isinstance(item, TERMINAL) and not self.resumed:
                                pauses = itertools.pairwise(max(at, item.at / 1000) for at in shown_at)
                                self.late_s = max(after - before for before, after in pauses)
                    if until is not None and until(self):
                        return self
            self.done = True
        except (ChatError, ConnectionLost) as error:
            self.error = error
        return self

    @property
    def turn_id(self) -> str:
        """The id of the turn; empty before anything of it was shown."""
        if self.whole is not None:
            return self.whole.turn_id
        return self.events[0].turn_id if self.events else ""

    @property
    def after(self) -> int:
        """The cursor: the last seq that was shown."""
        return self.events[-1].seq if self.events else 0

    @property
    def text(self) -> str:
        """The text so far."""
        if isinstance(self.whole, Reply):
            return self.whole.text
        return "".join(event.text for event in self.events if isinstance(event, Chunk))

    @property
    def status(self) -> str:
        """How the turn ended, as it was shown; empty when no end was shown."""
        if isinstance(self.whole, Reply):
            return self.whole.status
        if self.whole is not None:
            return "completed"
        last = self.events[-1] if self.events else None
        return TERMINAL_STATUS[event_type(last)] if isinstance(last, TERMINAL) else ""


@lru_cache(maxsize=4096)
def expected(message: str) -> str:
    """The offline model's reply to the first message of a session."""
    return "".join(reply_tokens([ContextMessage("user", message)]))


def judge(totals: Totals, shown: Shown, where: str, *, statuses: Iterable[str] = ("completed",)) -> None:
    """Count the faults in what was shown of a turn; ``statuses`` are the ends that are right."""
    if shown.rewound:
        totals.blame("lost", f"{where}: {shown.rewound} events were shown and taken back", shown.rewound)
    if shown.error is not None or not shown.done:
        why = f"{type(shown.error).__name__}: {shown.error}" if shown.error else "stopped"
        totals.blame("other", f"{where}: not read to its end ({why})")
        return
    totals.notes["lost line"] += shown.lost
    totals.notes["resumed"] += shown.resumed
    if shown.late_s > LATE_S:
        totals.blame("other", f"{where}: the end ({shown.status}) was late: nothing was shown for {shown.late_s:.1f} s")
    if shown.status not in statuses:
        totals.blame("other", f"{where}: ended {shown.status or 'without an end'}, not {'/'.join(statuses)}")
    full = expected(shown.asked)
    if isinstance(shown.whole, Reply):
        if hashlib.sha256(shown.text.encode()).hexdigest() != shown.whole.sha256:
            totals.blame("hashes", where)
        if shown.text != full if shown.status == "completed" else not full.startswith(shown.text):
            totals.blame("hashes", f"{where}: not the text of the uncut run")
        return
    if shown.whole is not None:
        if hashlib.sha256(shown.whole.image).hexdigest() != shown.whole.sha256:
            totals.blame("hashes", where)
        return
    seqs = Counter(event.seq for event in shown.events)
    repeated = sum(count - 1 for count in seqs.values())
    if repeated:
        totals.blame("twice", f"{where}: {[seq for seq in seqs if seqs[seq] > 1][:5]}", repeated)
    missing = set(range(1, max(seqs, default=0) + 1)) - set(seqs)
    if missing:
        totals.blame("lost", f"{where}: {sorted(missing)[:5]}", len(missing))
    if [event.seq for event in shown.events] != sorted(event.seq for event in shown.events):
        totals.blame("other", f"{where}: out of order")
    ends = [event for event in shown.events if isinstance(event, TERMINAL)]
    if len(ends) != 1 or ends[0] is not shown.events[-1]:
        totals.blame("ends", f"{where}: {len(ends)} terminal events")
        return
    end = ends[0]
    if isinstance(end, TurnFailed) or getattr(shown.events[0], "kind", "chat") == "image":
        return
    if end.sha256 != hashlib.sha256(shown.text.encode()).hexdigest():
        totals.blame("hashes", f"{where}: the text shown is not the one hashed")
    if shown.text != full if shown.status == "completed" else not full.startswith(shown.text):
        totals.blame("hashes", f"{where}: not the text of the uncut run")


class World:
    """Servers on one store file, for ``async with``; each of them may be killed and started again on its port.

    ``begun`` counts how often each turn's model ran, by the last eight characters of the turn's id, as the logs show it.
    ``errors`` has the servers' errors.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        words: tuple[str, ...] = WORDS,
        plant: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.words = words
        self.patience_s = patience_s
        self.store = folder / "chat.db"
        self.env = {**SETTINGS, "STORE_URL": f"sqlite:///{self.store}", **(env or {})}
        if plant is not None:
            planted = str(Path(__file__).parent / "planted")
            self.env |= {"PYTHONPATH": planted, "PLANTED_BUG": plant}
        self.servers: dict[str, Server] = {}
        self.begun: Counter[str] = Counter()
        self.begun_on: dict[str, str] = {}
        self.errors: list[str] = []
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}
        self._ports: dict[str, int] = {}

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self._stacks)))

    async def start(self, *names: str, **env: str) -> None:
        """Start servers. A name is the word of a transport, or a word, a slash and a suffix for one more server of it."""
        async with asyncio.TaskGroup() as group:
            for name in names or self.words:
                if name not in self._stacks:
                    group.create_task(self._start(name, env))

    async def _start(self, name: str, env: Mapping[str, str]) -> None:
        stack = contextlib.AsyncExitStack()
        self._stacks[name] = stack
        port = self._ports.setdefault(name, free_port())
        server = await stack.enter_async_context(
            serving(name.partition("/")[0], port=port, env={**self.env, **env}, on_line=self._read_line)
        )
        self.servers[name] = server

    def _read_line(self, word: str, line: bytes) -> None:
        # This runs for every line of every server, so only the lines that count are decoded.
        if b" started" in line:
            entry = msgspec.json.decode(line)
            self.begun[entry["turn"]] += 1
            self.begun_on[entry["turn"]] = word
        elif b'"error"' in line or b"Traceback" in line or b"exception" in line:
            self.errors.append(f"{word}: {line.decode(errors='replace').strip()[:500]}")

    def client(self, lane: Lane, address: str | None = None, **options: Any) -> ChatClient:
        """A client of a lane; ``address`` is that of a relay or of one more server."""
        given = {"give_up_s": self.patience_s * 2 / 3, **lane.options, **options}
        return TRANSPORTS[lane.word].client(address or self.servers[lane.word].address, **given)

    async def kill(self, name: str) -> None:
        """Send SIGKILL to a server, and wait for its end."""
        self.servers[name].kill()
        await self.stop(name)

    async def stop(self, name: str, number: int = signal.SIGINT) -> int:
        """End a server with a signal, and return its exit status."""
        stack = self._stacks.pop(name)
        # A server that did not start has no process to end.
        server = self.servers.get(name)
        status = await server.stop(number) if server is not None else 0
        await stack.aclose()
        return status

    async def count_running(self) -> int:
        """The number of turns that the store has as running."""
        return int(rows(self.store, "SELECT count(*) FROM turns WHERE status = 'running'")[0][0])

    async def read_logs(self) -> Logs:
        """All turns of the store with their logs, read without the project's own code."""
        names = ("turn_id", "input", "kind", "status", "last_seq", "text", "session_id")
        turns: Logs = {
            row[0]: (dict(zip(names, row, strict=True)), [])
            for row in rows(self.store, f"SELECT {', '.join(names)} FROM turns")
        }
        for turn_id, lines in rows(self.store, "SELECT turn_id, lines FROM segments ORDER BY turn_id, first_seq"):
            if turn_id in turns:
                turns[turn_id][1].extend(msgspec.json.decode(line) for line in lines.split(b"\n"))
        return turns

    def integrity(self) -> str:
        """``ok``, or what is wrong with the store's file."""
        return str(rows(self.store, "PRAGMA integrity_check")[0][0])


def rows(store: Path, query: str, *values: Any) -> list[Any]:
    """Query the store file directly, without the project's own code."""
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(10_000)
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


async def settled(world: World) -> int:
    """Wait until no turn runs. Returns the number of turns that still run after the time-out."""
    deadline = time.monotonic() + world.patience_s
    while True:
        running = await world.count_running()
        if not running or time.monotonic() > deadline:
            return running
        await asyncio.sleep(0.05)


async def audit(world: World, totals: Totals, shown: Iterable[Shown], *, exact: bool = True) -> None:
    """Compare the store's logs with the rules and with what was shown.

    Each message has one turn, and the model ran once for it. Each log counts 1, 2, 3 … to one terminal event, whose sha256 is that
    of the text. Every event that was shown is in the log.
    """
    running = await settled(world)
    if running:
        totals.blame("ends", f"{running} turns never ended", running)
    logs = await world.read_logs()
    by_input: dict[str, list[str]] = {}
    for turn_id, (turn, _) in logs.items():
        by_input.setdefault(turn["input"], []).append(turn_id)
    for one in shown:
        turns = by_input.get(one.asked, [])
        if len(turns) > 1:
            totals.blame("generated", f"{one.asked!r} has {len(turns)} turns", len(turns) - 1)
        if not turns:
            if one.events or one.whole:
                totals.blame("lost", f"{one.asked!r}: shown, but not in the store")
            continue
        for turn_id in turns:
            if world.begun[short_turn(turn_id)] > 1:
                totals.blame("generated", f"{one.asked!r}: its model ran {world.begun[short_turn(turn_id)]} times")
        if one.turn_id in logs:
            stored = {line["seq"]: line for line in logs[one.turn_id][1]}
            _compare(totals, one, stored)
        elif one.turn_id:
            totals.blame("lost", f"{one.asked!r}: the turn that was shown is not in the store")
    for turn_id, (turn, lines) in logs.items():
        _check_log(totals, turn_id, turn, lines)
    answer = world.integrity()
    if answer != "ok":
        totals.blame("other", f"integrity check: {answer}")
    if exact:
        for error in world.errors:
            totals.blame("other", f"a server's log says {error}")


def _compare(totals: Totals, one: Shown, stored: Mapping[int, Mapping[str, Any]]) -> None:
    for event in one.events:
        line = stored.get(event.seq)
        if line is None:
            totals.blame("lost", f"{one.asked!r}: seq {event.seq} was shown, but is not in the store")
        elif (line["type"], line["at"]) != (event_type(event), event.at) or (
            isinstance(event, Chunk) and line["text"] != event.text
        ):
            totals.blame("other", f"{one.asked!r}: seq {event.seq} was shown otherwise than it is stored")


def _check_log(totals: Totals, turn_id: str, turn: Mapping[str, Any], lines: list[dict[str, Any]]) -> None:
    where = f"turn {turn_id} ({turn['input'][:40]!r})"
    if [line["seq"] for line in lines] != list(range(1, turn["last_seq"] + 1)):
        totals.blame("lost", f"{where}: the stored log has gaps")
        return
    ends = [line for line in lines if line["type"] in TERMINAL_STATUS]
    if turn["status"] == "running":
        return
    if len(ends) != 1 or ends[0] is not lines[-1] or TERMINAL_STATUS[ends[0]["type"]] != turn["status"]:
        totals.blame("ends", f"{where}: {len(ends)} terminal events in the store")
        return
    text = "".join(line["text"] for line in lines if line["type"] == "chunk")
    if turn["kind"] == "image" or turn["status"] == "failed":
        return
    if ends[0]["sha256"] != hashlib.sha256(text.encode()).hexdigest() or turn["text"] != text:
        totals.blame("hashes", f"{where}: the stored text is not the one hashed")


async def spread(
    world: World, totals: Totals, jobs: Iterable[tuple[str, Callable[[], Coroutine[Any, Any, None]]]], parallel: int
) -> None:
    """Run named jobs, ``parallel`` at a time. A job that raises or hangs is counted as a fault, and the others go on."""
    places = asyncio.Semaphore(parallel)

    async def run(where: str, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(2 * world.patience_s):
                await job()
        except TimeoutError:
            totals.blame("other", f"{where}: hung")
        except Exception as error:  # noqa: BLE001 - a run that fails must not end the others
            totals.blame("other", f"{where}: {type(error).__name__}: {error}")
        finally:
            totals.runs += 1
            totals.slowest = max(totals.slowest, (time.monotonic() - begun, where))
            places.release()

    async with asyncio.TaskGroup() as group:
        for where, job in jobs:
            await places.acquire()
            group.create_task(run(where, job))


async def until(condition: Callable[[], Awaitable[Any] | Any], timeout_s: float, what: str) -> Any:
    """Ask until the answer is true, and return it. Raises TimeoutError with ``what``."""
    deadline = time.monotonic() + timeout_s
    for wait_s in itertools.chain((0.002, 0.005), itertools.repeat(0.01)):
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(wait_s)
    return None


@asynccontextmanager
async def timed(totals: Totals) -> AsyncIterator[Totals]:
    """Note the duration of a check."""
    begun = time.monotonic()
    try:
        yield totals
    finally:
        totals.elapsed_s = time.monotonic() - begun


def say(text: str) -> None:
    """Print a line about the progress of a full run."""
    sys.stderr.write(text + "\n")
