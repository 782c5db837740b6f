"""The five transports side by side on one time axis: a turn, a cut, a stop and a killed server, from recorded runs (SVG 2).

``python -m sequence_diagrams.overview`` plays the four again over each transport and writes ``docs/overview.svg``.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from compare.showing.page import lane_rules
from compare.showing.plots import round_ticks
from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from sequence_diagrams.picture import WIDTH, picture
from shared.client.protocol import Ask, ChatClient, Lost, Reconnected
from shared.events import TERMINAL, Chunk
from shared.reply import Reply

OUT = Path(__file__).resolve().parents[1] / "docs" / "overview.svg"
TOKENS, AFTER = 40, 15
SETTINGS = {"OFFLINE_TOKENS_PER_S": "20", "OFFLINE_FIRST_TOKEN_MS": "150", "LEASE_S": "0.5"}
# How long a killed server is away.
AWAY_S = 0.7
_LEFT, _RIGHT, _ROW, _HEAD, _AXIS = 96.0, 150.0, 26.0, 34.0, 42.0


@dataclass(slots=True)
class Track:
    """What one client saw, in ms after its request: tokens, lost connections, returns, and the end with its name."""

    tokens: list[float] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    end: float = 0.0
    ended: str = ""


@dataclass(slots=True)
class Stage:
    """One transport while a scene is played: its server may be another one after the scene killed it."""

    word: str
    server: Server
    client: ChatClient
    stack: contextlib.AsyncExitStack
    env: dict[str, str]
    turn_id: str = ""


Scene = Callable[[Stage], Awaitable[None]]


async def _nothing(stage: Stage) -> None:
    return


async def _cut(stage: Stage) -> None:
    await stage.client.cut()


async def _stop(stage: Stage) -> None:
    await stage.client.cancel(stage.turn_id)


async def _kill(stage: Stage) -> None:
    port = int(stage.server.address.rpartition(":")[2])
    stage.server.kill()
    await stage.server.process.wait()
    await asyncio.sleep(AWAY_S)
    stage.server = await stage.stack.enter_async_context(serving(stage.word, port=port, env=stage.env))


SCENES: dict[str, Scene] = {
    "A turn": _nothing,
    f"The connection is cut after {AFTER} tokens": _cut,
    f"The reader stops the answer after {AFTER} tokens": _stop,
    f"The server is killed after {AFTER} tokens, and is back later": _kill,
}


async def record(scene: Scene) -> dict[str, Track]:
    """Play a scene over each transport, one after the other."""
    return {word: await _play(word, scene) for word in TRANSPORTS}


async def _play(word: str, scene: Scene) -> Track:
    async with _stage(word) as stage:
        track = Track()
        snapshot = await stage.client.start(ask := Ask(text=f"/tokens {TOKENS} hello"))
        stage.turn_id = snapshot.turn_id
        begun = time.perf_counter()
        acting = None if TRANSPORTS[word].tokens else asyncio.create_task(_when_half(stage, scene))
        async for item in stage.client.follow(ask):
            now = (time.perf_counter() - begun) * 1000
            if isinstance(item, Chunk | Reply):
                track.tokens.append(now)
            if isinstance(item, Lost):
                track.lost.append(now)
            elif isinstance(item, Reconnected):
                track.back.append(now)
            elif isinstance(item, Reply):
                track.end, track.ended = now, item.status
            elif isinstance(item, TERMINAL):
                track.end, track.ended = now, type(item).__name__.removeprefix("Turn").lower()
            if isinstance(item, Chunk) and len(track.tokens) == AFTER and acting is None:
                acting = asyncio.create_task(scene(stage))  # type: ignore[arg-type]
        if acting is not None:
            await acting
    return track


async def _when_half(stage: Stage, scene: Scene) -> None:
    """Plain REST shows no token, so the scene begins when the turn has as many of them."""
    while (await stage.client.get_turn(stage.turn_id)).last_seq <= AFTER:
        await asyncio.sleep(0.02)
    await scene(stage)


@contextlib.asynccontextmanager
async def _stage(word: str) -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory() as folder:
        env = {**SETTINGS, "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(serving(word, port=free_port(), env=env))
            client = await stack.enter_async_context(TRANSPORTS[word].client(server.address))
            yield Stage(word, server, client, stack, env)


def draw(scenes: dict[str, dict[str, Track]]) -> str:
    """One panel a scene, one row a transport; all panels have the same axis, linear and in seconds."""
    longest = max(max([track.end, *track.lost]) for tracks in scenes.values() for track in tracks.values()) * 1.02
    y, parts = 14.0, [_legend()]
    y += 40
    for title, tracks in scenes.items():
        bottom = y + _HEAD + len(tracks) * _ROW
        parts.append(f'<text class="t" x="10" y="{y + 20:g}">{escape(title)}</text>')
        for value in round_ticks(longest / 1000):
            x = _x(value * 1000, longest)
            parts.append(f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{y + _HEAD:g}" y2="{bottom:g}"/>')
            parts.append(f'<text class="m" x="{x:.1f}" y="{bottom + 15:g}">{value:g} s</text>')
        for row, (word, track) in enumerate(tracks.items()):
            parts.append(_row(word, track, y + _HEAD + row * _ROW, longest))
        y = bottom + _AXIS - 12
    return picture("The five transports on one time axis", y, parts, *_style())


def _legend() -> str:
    lines = (
        "A bar: a token, or a whole reply. Dashed: the client notices that the connection is lost. ▲ it is back. ■ the end.",
        "Seconds after the request, on one linear axis; each transport played alone, with its own client and server.",
    )
    return "".join(f'<text class="m s" x="10" y="{22 + 17 * i}">{line}</text>' for i, line in enumerate(lines))


def _row(word: str, track: Track, y: float, longest: float) -> str:
    middle = y + _ROW / 2
    parts = [f'<text class="e" x="{_LEFT - 10:g}" y="{middle + 4:g}">{TRANSPORTS[word].label}</text>']
    parts += [
        f'<rect class="{word}" x="{_x(at, longest) - 1:.1f}" y="{y + 5:g}" width="2.2" height="{_ROW - 10:g}"/>'
        for at in track.tokens
    ]
    for at in track.lost:
        x = _x(at, longest)
        parts.append(f'<line class="l" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 1:g}" y2="{y + _ROW - 1:g}"/>')
    parts += [f'<text class="k" x="{_x(at, longest):.1f}" y="{y + _ROW - 1:g}">▲</text>' for at in track.back]
    x = _x(track.end, longest)
    parts.append(f'<rect class="k" x="{x + 3:.1f}" y="{middle - 4:g}" width="8" height="8"/>')
    parts.append(f'<text x="{x + 16:.1f}" y="{middle + 4:g}">{track.ended}, {track.end / 1000:.2f} s</text>')
    return "".join(parts)


def _style() -> tuple[str, str]:
    """The rules for a light page, and those for a dark page."""
    lanes = lane_rules(TRANSPORTS, "fill")
    light = (
        "text{stroke:#fff;stroke-width:4px;paint-order:stroke}.m{text-anchor:middle}.s{text-anchor:start}.e{text-anchor:end}"
        ".a{stroke:#d8dee7}.l{stroke:#b3261e;stroke-width:2;stroke-dasharray:4 3}.k{fill:#1d2430;text-anchor:middle;font-size:11px}"
    )
    dark = "text{stroke:#12161d}.a{stroke:#333c49}.l{stroke:#ff8a80}.k{fill:#e6eaf0}"
    return light + lanes[0], dark + lanes[1]


def _x(ms: float, longest: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * ms / longest


async def main() -> int:
    """Record the four scenes and write the picture, and return the exit status."""
    scenes = {}
    for title, scene in SCENES.items():
        print(f"{title} …", flush=True)
        scenes[title] = await record(scene)
    OUT.write_text(draw(scenes), encoding="utf-8")
    print(OUT.name)
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
