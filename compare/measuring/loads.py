"""One load point of a transport's server: so many answers at the same time, of so many tokens, at such a rate."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from compare.measuring.floors.load.job import Job, Result
from compare.measuring.process_cost import rss_bytes

_LOAD = "compare.measuring.floors.load"
# The second answer of a stream begins after the first one, so a window holds ends and beginnings of answers.
_LEAST_S = 2.0


class LoadShape(msgspec.Struct, frozen=True):
    """So many answers at the same time, of so many tokens.

    The shapes of a run begin with short answers, which tell what an answer costs apart from its tokens. The others tell how a
    token gets cheaper when many come at once. They grow, because a process that has grown does not give its memory back.
    """

    users: int
    tokens: int


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The load of a server while ``users`` streams asked again and again for ``tokens`` tokens at ``rate`` a second.

    ``tokens_s`` is what the server delivered in all, ``answers_s`` how many answers ended a second. ``cpu_s`` is the CPU time
    of the server a second. ``answer_bytes`` is TCP payload down, an answer. ``first_ms`` is the median wait until the first
    token; for a whole reply, until the reply. ``memory_mib`` is the server's resident memory at the end.
    """

    word: str
    users: int
    tokens: int
    rate: float
    tokens_s: float
    answers_s: float
    cpu_s: float
    answer_bytes: float
    first_ms: float
    memory_mib: float


async def measure_load(
    word: str, address: str, pid: int, *, users: int, tokens: int, rate: float, seconds: float, least_cpu_s: float = 0.0
) -> LoadPoint:
    """Load the server at ``address`` from a process of its own. ``pid`` is the server's process.

    The window is ``seconds`` long, and longer until the server has used ``least_cpu_s``. Raises RuntimeError with the last
    words of the load generator when it fails, and elsewhere than on Linux.
    """
    job = Job(
        wire=word,
        address=address,
        pid=pid,
        mode="loop",
        streams=users,
        message=f"/tokens {tokens} your numbers",
        seconds=max(seconds, _LEAST_S),
        spread_s=tokens / rate,
        warm_s=0.3,
        least_cpu_s=least_cpu_s,
    )
    result = await _run(job)
    memory = rss_bytes(pid)
    if result.cpu_s is None or memory is None or result.first_p50_ms is None:
        raise RuntimeError("the CPU time and the memory of another process can be read on Linux alone")
    whole = word == "rest"
    # An event is a token, but for the first and the last one of each answer. A whole reply is one event.
    events = result.events if not whole else result.turns * (tokens + 2)
    answers = events / (tokens + 2)
    first_ms = result.first_p50_ms if whole or result.ttft_p50_ms is None else result.ttft_p50_ms
    return LoadPoint(
        word=word,
        users=users,
        tokens=tokens,
        rate=rate,
        tokens_s=answers * tokens / result.seconds,
        answers_s=answers / result.seconds,
        cpu_s=result.cpu_s / result.seconds,
        answer_bytes=result.bytes / max(answers, 1e-9),
        first_ms=first_ms,
        memory_mib=memory / 2**20,
    )


async def _run(job: Job) -> Result:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        _LOAD,
        msgspec.json.encode(job).decode(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    out, words = await process.communicate()
    if process.returncode:
        raise RuntimeError(words.decode(errors="replace").strip().rpartition("\n")[2] or "the load generator failed")
    return msgspec.json.decode(out, type=Result)
