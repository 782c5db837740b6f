"""A node of the measurement of stores: ``python -m compare.measuring.stores.node JOB``; JOB and the answers are lines
of JSON.

The writer generates turns and prints their ids. The reader reads the turns through logs of its own, as a server of
another machine does, and prints the delay of each event since the writer appended it. Both run on the event loop of the
servers, with the servers' garbage collection.
"""

from __future__ import annotations

import asyncio
import io
import resource
import sys
from typing import Literal

import msgspec

from shared.chat.service import ChatService, open_service
from shared.config import Settings
from shared.events import Chunk, now_ms
from shared.logger import open_logger
from shared.server.launch import event_loop, settle


class NodeJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a node does. ``readers``: how many readers each turn has. ``wait_ms``: the model's time before its first token."""

    role: Literal["writer", "reader"]
    store_url: str
    turns: int
    tokens: int
    tokens_per_s: float
    readers: int = 1
    wait_ms: float = 3000.0


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The turns that a writer has started."""

    turn_ids: list[str]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU time of a node while the events came, in s; for a reader also the events' number and delays (ms)."""

    cpu_s: float
    events: int = 0
    late_p50_ms: float = 0.0
    late_p99_ms: float = 0.0


def cpu_s() -> float:
    """The CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values is; the list must be sorted."""
    return values[min(len(values) - 1, int(len(values) * share))]


def _say(answer: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _hear() -> bytes:
    return await asyncio.to_thread(sys.stdin.buffer.readline)


async def _write(service: ChatService, job: NodeJob) -> None:
    """Start the turns, and wait until the parent says that the reader has read all of them."""
    ask = f"/tokens {job.tokens} measure"
    turns = [await service.start_chat(ask, attended=False) for _ in range(job.turns)]
    begun_s = cpu_s()
    _say(Written(turn_ids=[turn.turn_id for turn in turns]))
    await _hear()
    _say(Counted(cpu_s=cpu_s() - begun_s))


async def _read(service: ChatService, job: NodeJob) -> None:
    """Read the turns whose ids come on stdin, to their ends."""
    _say(Written(turn_ids=[]))
    written = msgspec.json.decode(await _hear(), type=Written)
    late_ms: list[float] = []

    async def read(turn_id: str) -> None:
        with await service.open(turn_id, 0) as reader:
            async for records in reader:
                now = now_ms()
                late_ms.extend([now - record.event.at for record in records if isinstance(record.event, Chunk)])

    begun_s = cpu_s()
    await asyncio.gather(*(read(turn_id) for turn_id in written.turn_ids for _ in range(job.readers)))
    used_s = cpu_s() - begun_s
    late_ms.sort()
    _say(
        Counted(
            cpu_s=used_s,
            events=len(late_ms),
            late_p50_ms=percentile(late_ms, 0.5),
            late_p99_ms=percentile(late_ms, 0.99),
        )
    )


async def main(job: NodeJob) -> None:
    """Do one job on a service of its own."""
    settings = Settings(
        _env_file=None,
        genai_provider="offline",
        image_provider="offline",
        offline_tokens_per_s=job.tokens_per_s,
        offline_first_token_ms=job.wait_ms,
        store_url=job.store_url,
    )
    async with open_service(settings, logger=open_logger("node", io.StringIO())) as service:
        settle()
        await (_write if job.role == "writer" else _read)(service, job)


if __name__ == "__main__":
    with event_loop() as runner:
        runner.run(main(msgspec.json.decode(sys.argv[1], type=NodeJob)))
