"""``python -m compare.measuring.packets.clients``: the process of the clients, inside the client's namespace.

It reads a job from stdin, connects, says that it is ready, waits for a line, and answers with the records of the turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from compare.lines.relay import Relay
from compare.measuring.lanes import Lane, generated_tokens
from compare.measuring.packets.jobs import SILENCE_S, Done, Job, Move, Ready, Streams, Target
from compare.measuring.packets.ways import MOVED, WAYS
from compare.measuring.recording import TurnSpec, now_ms, record_turn, warm_up
from compare.measuring.turns import Arrival, TurnRecord
from protocols import TRANSPORTS
from shared.client.protocol import ChatClient
from shared.errors import ChatError, ConnectionLost

_LONGEST_LINE_BYTES = 1024 * 1024
_WAYS = MOVED | WAYS


@dataclass(frozen=True, slots=True)
class _RemoteLane:
    """A lane whose server runs in the other namespace."""

    target: Target
    relay: Relay | None = None

    @property
    def lane(self) -> Lane:
        return _WAYS[self.target.way].lane

    def client(self, **options: object) -> ChatClient:
        """A new client."""
        ca = Path(self.target.ca) if self.target.ca else None
        transport = TRANSPORTS[self.lane.word]
        return transport.client(self.target.address, key=self.target.key, ca=ca, **self.lane.options, **options)


async def _streams(job: Streams, begin: asyncio.StreamReader) -> list[TurnRecord]:
    """Turns that begin spread over the time of one token, on one connection or on a connection each."""
    lane = _RemoteLane(job.target)
    spec = TurnSpec(experiment=job.connections, tokens=job.tokens, rate=job.rate)
    async with contextlib.AsyncExitStack() as stack:
        count = job.streams if job.connections == "many" else 1
        clients = [await stack.enter_async_context(lane.client()) for _ in range(count)]
        await asyncio.gather(*(warm_up(lane, client) for client in clients))
        await _begin(begin)

        async def turn(stream: int) -> TurnRecord:
            await asyncio.sleep(stream / job.streams / job.rate)
            return await record_turn(lane, clients[stream % count], spec, number=job.number, stream=stream)

        return list(await asyncio.gather(*map(turn, range(job.streams))))


async def _move(job: Move, begin: asyncio.StreamReader) -> list[TurnRecord]:
    """A turn of each server; this side's address changes in the midst of all."""
    lanes = [_RemoteLane(target) for target in job.targets]
    waiting = {lane.target.way for lane in lanes}
    all_begun = asyncio.Event()
    spec = TurnSpec(
        experiment=f"moved, {'with' if job.resume else 'without'} resume",
        tokens=job.tokens,
        rate=job.rate,
        cut_after=job.after,
        resume=job.resume,
    )
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(lane.client(resume=job.resume, silence_s=SILENCE_S)) for lane in lanes
        ]
        await asyncio.gather(*map(warm_up, lanes, clients))
        await _begin(begin)

        async def turn(lane: _RemoteLane, client: ChatClient) -> TurnRecord:
            def shown() -> None:
                waiting.discard(lane.target.way)
                if not waiting:
                    all_begun.set()

            def watch(arrival: Arrival) -> None:
                # turn_started has seq 1.
                if arrival.seq > job.after:
                    shown()

            record = await record_turn(lane, client, spec, number=job.number, watch=watch)
            shown()
            record.lane = lane.target.way
            return record

        async with asyncio.TaskGroup() as group:
            turns = [group.create_task(turn(lane, client)) for lane, client in zip(lanes, clients, strict=True)]
            await all_begun.wait()
            for command in job.commands:
                process = await asyncio.create_subprocess_exec(*command)
                await process.wait()
            moved_ms = now_ms()
        records = [task.result() for task in turns]
        for lane, record in zip(lanes, records, strict=True):
            record.arrivals.append(Arrival(moved_ms - record.asked_at, "cut", 0, None, 0))
            record.arrivals.sort(key=lambda arrival: arrival.ms)
            with contextlib.suppress(ChatError, ConnectionLost):
                async with lane.client() as client:
                    record.generated = await generated_tokens(client, record.asked_at)
        return records


async def _begin(begin: asyncio.StreamReader) -> None:
    _tell(Ready())
    await begin.readline()


def _tell(answer: Ready | Done) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    jobs = asyncio.StreamReader(limit=_LONGEST_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(jobs), sys.stdin)
    while line := await jobs.readline():
        job = msgspec.json.decode(line, type=Job)
        _tell(Done(await (_streams(job, jobs) if isinstance(job, Streams) else _move(job, jobs))))


if __name__ == "__main__":
    asyncio.run(_serve())
