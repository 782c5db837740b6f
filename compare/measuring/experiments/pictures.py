"""Pictures: how fast they come, what they cost, and what a slow reader of one costs the others."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from compare.measuring.experiments.breaks import cut_tokens
from compare.measuring.experiments.run import PICTURES, Run
from compare.measuring.lanes import RunningLane
from compare.measuring.process_cost import cpu_s, rss_bytes
from compare.measuring.recording import TurnSpec, now_ms, record_turn
from compare.measuring.turns import TurnRecord
from shared.client.protocol import ChatClient, collect_picture
from shared.events import ImageChunk

_PROMPT = "a red bridge"
_SLOW_S = 0.025


async def pictures(run: Run) -> None:
    """A picture that is already in the log, so that no time goes into drawing."""
    for title, size in PICTURES.items():
        if title not in run.scale.pictures:
            run.unmeasured[f"picture {title}"] = "not in --quick"
            continue
        experiment = f"picture {title}"
        run.describe(
            experiment,
            f"A picture of {title}",
            f"The same request again with its key, so that it comes from the log; {run.rounds(run.scale.picture_repeats)}, lane"
            " after lane, no relay; its bytes through one. By its id: get_image, the bytes as they are.",
            ("image_ms", "image_get", "image_cpu", "image_wire"),
        )
        for name in run.order(0):
            run.say(f"{title}, {name}")
            spec = TurnSpec(experiment=experiment, message=_PROMPT, size=size, request_id=f"{name} {title}")
            await _picture(run, name, spec)


async def _picture(run: Run, name: str, spec: TurnSpec) -> None:
    direct, relayed = run.direct(name), run.lanes[name]
    async with direct.client() as client, relayed.client() as through_relay:
        items = client.image(spec.prompt, size=spec.size, request_id=spec.request_id)
        image_id = (await collect_picture(items)).image_id
        for repeat in range(run.scale.picture_repeats):
            number = run.round_of(repeat)
            server_s = cpu_s(direct.pid)
            turn = await record_turn(direct, client, spec, number=number)
            now_s = cpu_s(direct.pid)
            if turn.error is not None:
                run.turns.append(turn)
                continue
            run.sample(spec.experiment, name, number, "image_ms", turn.arrivals[-1].ms)
            if server_s is not None and now_s is not None:
                cost_ms = (now_s - server_s) * 1e9 / _image_bytes(turn)
                run.sample(spec.experiment, name, number, "image_cpu", cost_ms)
            begun = now_ms()
            await client.get_image(image_id)
            run.sample(spec.experiment, name, number, "image_get", now_ms() - begun)
            turn = await record_turn(relayed, through_relay, spec, number=number, count_bytes=True)
            if turn.down_bytes is not None and turn.error is None:
                run.sample(spec.experiment, name, number, "image_wire", turn.down_bytes / _image_bytes(turn))


def _image_bytes(turn: TurnRecord) -> int:
    """Bytes of the picture and of its previews, which travel too where the answer streams."""
    return sum(arrival.size for arrival in turn.of("image_chunk", "picture"))


async def slow_reader(run: Run) -> None:
    """A client that reads a picture slowly, and another client that reads tokens beside it."""
    scale = run.scale
    if not scale.paced_s:
        run.unmeasured["slow reader"] = "not in --quick"
        return
    tokens = cut_tokens(scale)
    size = PICTURES["4 MB"]
    run.describe(
        "slow reader",
        "Beside a slow reader",
        f"A first client takes {_SLOW_S * 1000:g} ms over every piece of a picture ({size}); a second one reads "
        f"{tokens} tokens at {run.rate:g} a second; {run.rounds(scale.line_repeats)}. Plain REST cannot read "
        "slowly: it has nothing to read until all is there.",
        ("delay_p50", "delay_p99", "e2e", "slow_kib"),
    )
    spec = TurnSpec(experiment="slow reader", tokens=tokens, rate=run.rate)
    for repeat in range(scale.line_repeats):
        for name in run.order(repeat):
            if name != "rest":
                run.say(name)
                await _beside_slow_reader(run, run.direct(name), spec, size, run.round_of(repeat))


async def _beside_slow_reader(run: Run, lane: RunningLane, spec: TurnSpec, size: str, number: int) -> None:
    key = f"{lane.lane.name} slow"
    async with run.clients(lane, 2) as (slow, quick):
        # The picture is in the log before anybody reads it slowly: to draw it would cost the server time, too.
        await collect_picture(quick.image(_PROMPT, size=size, request_id=key))
        before = rss_bytes(lane.pid)
        reading = asyncio.create_task(_read_slowly(slow, size, key))
        run.turns.append(await record_turn(lane, quick, spec, number=number))
        after = rss_bytes(lane.pid)
        await reading
    if before is not None and after is not None:
        run.sample(spec.experiment, lane.lane.name, number, "slow_kib", (after - before) / 1024)


async def _read_slowly(client: ChatClient, size: str, key: str) -> None:
    async with aclosing(client.image(_PROMPT, size=size, request_id=key)) as items:
        async for item in items:
            if isinstance(item, ImageChunk):
                await asyncio.sleep(_SLOW_S)
