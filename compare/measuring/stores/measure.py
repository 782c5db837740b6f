"""The measurements of a store: one event committed after the other, many turns read on another node, many readers of one turn."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from compare.measuring.process_cost import cpu_s
from compare.measuring.stores.node import Counted, NodeJob, Written, percentile
from compare.measuring.stores.node import cpu_s as own_cpu_s
from compare.valkey import Valkey
from shared.events import Chunk, now_ms
from shared.store.open import open_store
from shared.store.protocol import Append, NewTurn, Options
from shared.store.record import Record

COMMITS = 1000
_LONGEST_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreKind:
    """A store and how it is set up. ``appendfsync`` None is SQLite; ``replicas`` must have an event before it is shown."""

    name: str
    appendfsync: str | None = None
    replicas: int = 0


KINDS = {
    kind.name: kind
    for kind in (
        StoreKind("sqlite"),
        StoreKind("valkey-memory", "no"),
        StoreKind("valkey-everysec", "everysec"),
        StoreKind("valkey-always", "always"),
        StoreKind("valkey-replica", "everysec", 1),
    )
}


@dataclass(slots=True)
class RunningStore:
    """A store that can be used; ``servers`` are its processes, none for SQLite."""

    kind: StoreKind
    url: str
    servers: list[Valkey] = field(default_factory=list)

    def cpu_s(self) -> float:
        """The CPU time of the store's processes."""
        return sum(cpu_s(server.pid) or 0.0 for server in self.servers)


@contextmanager
def running_store(kind: StoreKind) -> Iterator[RunningStore]:
    """A new store, empty, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="compare-store-") as path, contextlib.ExitStack() as stack:
        folder = Path(path)
        if kind.appendfsync is None:
            yield RunningStore(kind, f"sqlite:///{folder}/chat.db")
            return
        aof = ["appendonly no"] if kind.appendfsync == "no" else ["appendonly yes", f"appendfsync {kind.appendfsync}"]
        settings = ["save ''", *aof]
        primary = stack.enter_context(Valkey(folder / "primary", settings))
        servers = [primary]
        for number in range(kind.replicas):
            replica = [*settings, f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0"]
            servers.append(stack.enter_context(Valkey(folder / f"replica{number}", replica)))
            while b"state=online" not in primary.ask("INFO", "replication"):
                time.sleep(0.05)
        yield RunningStore(kind, primary.url, servers)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitCost:
    """One event after the other: the time from the append to the answer, and the CPU time of the process and the store."""

    p50_ms: float
    p99_ms: float
    cpu_us: float


async def commits(store: RunningStore) -> CommitCost:
    """Append events one by one, each after the answer to the last one."""
    opened = await asyncio.to_thread(open_store, store.url, Options(ack_replicas=store.kind.replicas))
    new = NewTurn(
        turn_id=str(uuid.uuid4()),
        kind="chat",
        input="measure",
        session_id=None,
        new_session_id=str(uuid.uuid4()),
        model_id=None,
        default_model="none",
        request_id=None,
        request_hash=hashlib.sha256(b"measure").hexdigest(),
        owner="measure",
        max_context_chars=1000,
    )
    turn = (await opened.start_turn(new)).turn
    took_ms: list[float] = []
    begun_s = own_cpu_s() + store.cpu_s()
    for seq in range(2, COMMITS + 2):
        record = Record.of(Chunk(turn_id=turn.turn_id, seq=seq, at=now_ms(), text=" token"))
        entry = Append(
            turn_id=turn.turn_id, session_id=turn.session_id, request_id=None, owner=turn.owner, records=[record]
        )
        before = time.perf_counter()
        (done,) = await opened.append([entry])
        took_ms.append((time.perf_counter() - before) * 1000)
        assert done.done
    used_s = own_cpu_s() + store.cpu_s() - begun_s
    await opened.close()
    took_ms.sort()
    return CommitCost(p50_ms=percentile(took_ms, 0.5), p99_ms=percentile(took_ms, 0.99), cpu_us=used_s / COMMITS * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingCost:
    """Turns that one node writes and another reads: the delay of the events, and each part's CPU time an event."""

    events: int
    late_p50_ms: float
    late_p99_ms: float
    writer_us: float
    store_us: float
    reader_us: float

    @property
    def cpu_us(self) -> float:
        """All parts together."""
        return self.writer_us + self.store_us + self.reader_us


class Node:
    """A process that does a job; ``python`` may be that of another tree, ``folder``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> bytes:
        """The node's next line. Raises RuntimeError when the node has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node ended with status {await self._process.wait()}")
        return line

    async def say(self, line: bytes) -> None:
        """Give the node a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()


@asynccontextmanager
async def _node(job: NodeJob, folder: Path | None) -> AsyncIterator[Node]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "compare.measuring.stores.node",
        msgspec.json.encode(job).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE_BYTES,
        cwd=folder,
    )
    try:
        yield Node(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def reading(
    store: RunningStore, *, turns: int, readers: int, tokens: int, tokens_per_s: float, folder: Path | None = None
) -> ReadingCost:
    """Write turns on one node and read them on another one; ``folder``: another tree of this program, to compare with."""
    jobs = [
        NodeJob(role=role, store_url=store.url, turns=turns, tokens=tokens, tokens_per_s=tokens_per_s, readers=readers)
        for role in ("writer", "reader")
    ]
    async with _node(jobs[1], folder) as reader, _node(jobs[0], folder) as writer:
        await reader.hear()
        written = await writer.hear()
        assert msgspec.json.decode(written, type=Written).turn_ids
        begun_s = store.cpu_s()
        await reader.say(written)
        read = msgspec.json.decode(await reader.hear(), type=Counted)
        used_s = store.cpu_s() - begun_s
        await writer.say(b"\n")
        wrote = msgspec.json.decode(await writer.hear(), type=Counted)
    # The cost is that of each committed event, for any number of readers.
    events = turns * tokens
    if read.events != events * readers:
        raise RuntimeError(f"{store.kind.name}: {read.events} events were read of {events * readers}")
    return ReadingCost(
        events=read.events,
        late_p50_ms=read.late_p50_ms,
        late_p99_ms=read.late_p99_ms,
        writer_us=wrote.cpu_s / events * 1e6,
        store_us=used_s / events * 1e6,
        reader_us=read.cpu_s / events * 1e6,
    )


def known(names: Sequence[str]) -> list[StoreKind]:
    """The kinds with these names. Raises ValueError for an unknown one."""
    if unknown := set(names) - set(KINDS):
        raise ValueError(f"no such store: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return [KINDS[name] for name in names]
