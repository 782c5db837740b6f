"""The rows of the benchmark: one kind of load each, on all sides of a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from compare.measuring.floors.further import FURTHER, WITH_STREAMS
from compare.measuring.floors.load.job import Job
from compare.measuring.floors.plan import (
    FLOORS,
    PACED_PER_S,
    PACED_STREAMS,
    STREAMING,
    USUAL,
    WORDS,
    FloorRun,
    Side,
    loaded_together,
    without_sqlite,
)
from compare.measuring.floors.sides import client, job, load, running_sides
from compare.measuring.floors.start_up import start_up
from shared.client.protocol import Ask, collect, collect_picture

_IMAGE_SIZE = "1936x1936"
_FLOOR_IMAGE_BYTES = 4_000_000
# The turn of a floor; a floor answers every turn_id.
_FLOOR_TURN = "floor"
# The lanes whose answers are one whole reply.
_WHOLE = ("rest", "rest-h2")
_FASTEST = {"OFFLINE_TOKENS_PER_S": "0"}
_PACED = {"OFFLINE_TOKENS_PER_S": str(PACED_PER_S)}
# A saturated window must hold this share of its length in CPU time of the server.
_LEAST_CPU = 0.7


async def saturated(run: FloorRun, word: str) -> None:
    """Every stream asks again as soon as it has its answer; the model does not wait."""
    plan = run.plan
    message = f"/tokens {plan.events} floor"
    row = "saturated"
    async with running_sides(run, row, word, ["--tokens", str(plan.events)], _FASTEST) as sides:
        fields = {"message": message, "seconds": plan.seconds, "least_cpu_s": plan.seconds * _LEAST_CPU}
        for together in run.rounds(row, sides):
            await _add(run, row, [job(side, "loop", plan.streams, **fields) for side in together], together)
        for side in sides:
            if (found := run.results.get((row, word, side.name))) is None:
                continue
            run.say(f"first event {word} {side.name}")
            one = await load(plan, job(side, "loop", 1, message=message, seconds=min(1.0, plan.seconds)))
            if one.first_p50_ms is not None:
                found.first_ms.append(one.first_p50_ms)


async def _add(run: FloorRun, row: str, jobs: list[Job], sides: list[Side]) -> None:
    """Load sides at the same time, each with its job, and add to the row what they showed."""

    async def add(asked: Job, side: Side) -> None:
        with run.leaving_out(row, side.word, side.name):
            run.result(row, side).add(await load(run.plan, asked))

    await asyncio.gather(*map(add, jobs, sides))


async def paced(run: FloorRun, word: str) -> None:
    """128 streams at 50 tokens a second, as people see them.

    The transport delay is the arrival of an event minus the event's ``at``.
    """
    plan = run.plan
    tokens = int(PACED_PER_S * 2)
    arguments = ["--tokens", str(tokens), "--rate", str(PACED_PER_S)]
    fields = {
        "message": f"/tokens {tokens} floor",
        "seconds": max(4.0, plan.seconds),
        "stamps": True,
        "spread_s": 1.0,
    }
    async with running_sides(run, "paced", word, arguments, _PACED) as sides:
        for together in run.rounds("paced", sides):
            await _add(run, "paced", [job(side, "loop", PACED_STREAMS, **fields) for side in together], together)


async def readers(run: FloorRun, word: str) -> None:
    """Many readers of one turn at 50 tokens a second; the floor sends the same to as many streams."""
    plan = run.plan
    tokens = int(PACED_PER_S * 4)
    arguments = ["--tokens", str(tokens), "--rate", str(PACED_PER_S), "--gate", str(plan.readers)]

    async def read(side: Side) -> None:
        with run.leaving_out("readers", word, side.name):
            turn_id = await start(side, f"/slow {hold_s(plan.readers):g} /tokens {tokens} floor")
            fields = {"turn_id": turn_id, "stamps": True, "warm_s": 0.0}
            await _add(run, "readers", [job(side, "once", plan.readers, **fields)], [side])

    for number, order in enumerate(run.orders(loaded_together(without_sqlite(run.sides), plan), plan.rounds)):
        for names in order:
            run.say(f"readers {word} {', '.join(names)}, round {number + 1} of {plan.rounds}")
            async with running_sides(run, "readers", word, arguments, _PACED, names) as sides:
                await asyncio.gather(*map(read, sides))


def hold_s(readers: int) -> float:
    """How long a turn waits until all readers are connected; the floor waits for them by their number."""
    return 3 + readers / 250


async def start(side: Side, message: str) -> str:
    """Start a turn that goes on without a reader, and return the turn's id."""
    if side.name in FLOORS:
        return _FLOOR_TURN
    async with client(side) as starter:
        return (await starter.start(Ask(text=message))).turn_id


async def rest(run: FloorRun, word: str) -> None:
    """REST: a whole reply of many tokens, a whole reply of one token, and a small request."""
    many, one = f"POST /chat, {run.plan.events} tokens", "POST /chat, 1 token"
    for tokens, small, row in ((run.plan.events, False, many), (1, False, one), (1, True, "GET /turns/…")):
        await _rest(run, word, tokens, row, small=small)
    _add_a_token_more(run, word, many, one)


def _add_a_token_more(run: FloorRun, word: str, many: str, one: str) -> None:
    """What each further token of a reply costs, a value a round, from the rows of a long and of a short reply."""
    for (row, lane, name), long in list(run.results.items()):
        short = run.results.get((one, word, name))
        if (row, lane) == (many, word) and name not in FLOORS and short is not None:
            costs = zip(long.cpu_us, short.cpu_us, strict=False)
            found = run.result_of("POST /chat, a token more", word, name)
            found.cpu_us += [(of_many - of_one) / (run.plan.events - 1) for of_many, of_one in costs]


async def _rest(run: FloorRun, word: str, tokens: int, row: str, *, small: bool) -> None:
    plan = run.plan
    message = f"/tokens {tokens} floor"
    async with running_sides(run, row, word, ["--tokens", str(tokens)], _FASTEST) as sides:
        paths: dict[str, str | None] = {}
        for side in sides:
            with run.leaving_out(row, word, side.name):
                paths[side.name] = f"/turns/{await _ended_turn(side)}" if small else None
        fields = {"message": message, "seconds": plan.seconds, "least_cpu_s": plan.seconds * _LEAST_CPU}
        for together in run.rounds(row, sides):
            jobs = [job(side, "loop", plan.streams, path=paths[side.name], **fields) for side in together]
            await _add(run, row, jobs, together)


async def _ended_turn(side: Side) -> str:
    if side.name in FLOORS:
        return _FLOOR_TURN
    async with client(side) as asker:
        return (await collect(asker.chat("/tokens 1 floor"))).turn_id


async def idle(run: FloorRun, word: str) -> None:
    """The memory of an open stream that waits for its next event."""
    plan = run.plan
    names = without_sqlite(run.sides)
    # New processes each time: one that has had the streams before keeps their memory.
    for order in run.orders(names, plan.once_rounds):
        async with running_sides(run, "idle", word, ["--hold"], {}, order) as sides:
            for side in sides:
                run.say(f"{plan.idle_streams} idle streams {word} {side.name}")
                with run.leaving_out("idle", word, side.name):
                    turn_id = await start(side, "/slow 3600 floor")
                    result = await load(plan, job(side, "idle", plan.idle_streams, turn_id=turn_id))
                    found = run.result("idle", side)
                    if result.rss_bytes is not None:
                        found.rss_kib.append(result.rss_bytes / 1024 / plan.idle_streams)


async def image(run: FloorRun, word: str) -> None:
    """A picture of 4 MB, read again and again; CPU a MB. On REST it is the bytes of ``GET /images/{image_id}``."""
    async with running_sides(run, "image", word, ["--image-bytes", str(_FLOOR_IMAGE_BYTES)], {}) as sides:
        drawn = {}
        for side in sides:
            with run.leaving_out("image", word, side.name):
                drawn[side.name] = await _draw(side)
        for together in run.rounds("image", sides):
            await asyncio.gather(*(_read_picture(run, side, drawn[side.name]) for side in together))


@dataclass(frozen=True, slots=True)
class _Drawn:
    turn_id: str
    image_id: str
    size: int


async def _read_picture(run: FloorRun, side: Side, picture: _Drawn) -> None:
    fields = {"turn_id": picture.turn_id, "seconds": run.plan.seconds}
    if side.word in _WHOLE:
        fields = {"path": f"/images/{picture.image_id}", "seconds": run.plan.seconds}
    with run.leaving_out("image", side.word, side.name):
        result = await load(run.plan, job(side, "loop", 4, **fields))
        found = run.result("image", side)
        megabytes = result.turns * picture.size / 1e6
        share = result.bytes / 1e6 / max(megabytes, 1e-9)
        found.note = f"{picture.size / 1e6:.1f} MB, {share:.2f} bytes on the wire a byte"
        found.add(result, work=megabytes)


async def _draw(side: Side) -> _Drawn:
    if side.name in FLOORS:
        return _Drawn(_FLOOR_TURN, _FLOOR_TURN, _FLOOR_IMAGE_BYTES)
    async with client(side) as asker:
        picture = await collect_picture(asker.image("floor", size=_IMAGE_SIZE))
    return _Drawn(picture.turn_id, picture.image_id, len(picture.image))


async def slow_model(run: FloorRun, word: str) -> None:
    """16 chats at once on a model that waits a second before its first token."""
    plan = run.plan
    names = [name for name in run.sides if name not in FLOORS]
    async with running_sides(run, "slow-model", word, [], _FASTEST, names) as sides:
        for order in run.orders(sides, plan.once_rounds):
            for side in order:
                run.say(f"16 chats on a slow model {word} {side.name}")
                with run.leaving_out("slow-model", word, side.name):
                    result = await load(plan, job(side, "burst", 16, message="/slow 1 /tokens 5 floor"))
                    run.result("slow-model", side).took_s.append(result.seconds)


_STREAMS = (*STREAMING, *WITH_STREAMS)
Row = Callable[[FloorRun, str], Awaitable[None]]
# Every row with the lanes for which it has a meaning.
ROWS: dict[str, tuple[Row, tuple[str, ...]]] = {
    "saturated": (saturated, _STREAMS),
    "paced": (paced, _STREAMS),
    "readers": (readers, _STREAMS),
    "rest": (rest, _WHOLE),
    "idle": (idle, _STREAMS),
    "image": (image, (*WORDS, *FURTHER)),
    "slow-model": (slow_model, (*WORDS, *FURTHER)),
    "start": (start_up, USUAL),
}
