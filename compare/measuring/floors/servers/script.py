"""The turn that a floor sends: encoded before the first request, sent with one write an event."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from shared.events import (
    IMAGE_CHUNK_BYTES,
    AnyEvent,
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    TurnCompleted,
    TurnStarted,
    Usage,
)
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens

M = TypeVar("M")
TURN_ID = "00000000-0000-4000-8000-000000000000"
# The time in every event. It has three decimals, so a present time in its place has the same length.
AT = 1_800_000_000_000.125


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """What to send. ``rate`` is in tokens a second; 0 is as fast as possible. ``gate`` streams must be open before the first token.

    ``hold`` sends nothing after the first event. ``image_bytes`` sends a picture of this size instead of tokens. ``cert`` and
    ``key`` are the PEM files of TLS; without them the server speaks no TLS.
    """

    port: int
    tokens: int
    rate: float
    gate: int
    hold: bool
    image_bytes: int
    cert: Path | None = None
    key: Path | None = None


def options(prog: str, argv: Sequence[str] | None, **more: list[str]) -> tuple[argparse.Namespace, ScriptOptions]:
    """The arguments of every floor; ``more`` adds required ones, each with its choices."""
    parser = argparse.ArgumentParser(prog=prog)
    for name, choices in more.items():
        parser.add_argument(f"--{name}", choices=choices, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second; 0: as fast as possible")
    parser.add_argument("--gate", type=int, default=0, help="open streams to wait for before the first token")
    parser.add_argument("--hold", action="store_true", help="send nothing after the first event")
    parser.add_argument("--image-bytes", type=int, default=0, help="answer with a picture of this size")
    parser.add_argument("--cert", type=Path, help="the certificate of TLS (default: no TLS)")
    parser.add_argument("--key", type=Path, help="the certificate's key")
    args = parser.parse_args(argv)
    return args, ScriptOptions(
        args.port, args.tokens, args.rate, args.gate, args.hold, args.image_bytes, args.cert, args.key
    )


def events(script: ScriptOptions) -> list[AnyEvent]:
    """The events of the turn, with the texts of the offline model."""
    started = TurnStarted(
        turn_id=TURN_ID,
        seq=1,
        at=AT,
        session_id=TURN_ID,
        kind="image" if script.image_bytes else "chat",
        input="floor",
        model="offline-1",
        context_messages=0,
        request_id=None,
    )
    body: list[AnyEvent] = []
    if script.image_bytes:
        body.append(
            ImageStarted(
                turn_id=TURN_ID,
                seq=2,
                at=AT,
                image_id=TURN_ID,
                mime_type="image/png",
                width=1,
                height=1,
                size_bytes=script.image_bytes,
                preview=False,
            )
        )
        data = bytes(range(256)) * (IMAGE_CHUNK_BYTES // 256)
        for offset in range(0, script.image_bytes, IMAGE_CHUNK_BYTES):
            piece = data[: script.image_bytes - offset]
            body.append(
                ImageChunk(turn_id=TURN_ID, seq=len(body) + 2, at=AT, image_id=TURN_ID, offset=offset, data=piece)
            )
        body.append(
            ImageCompleted(
                turn_id=TURN_ID, seq=len(body) + 2, at=AT, image_id=TURN_ID, sha256="0" * 64, revised_prompt=None
            )
        )
    else:
        for seq, text in enumerate(reply_tokens([ContextMessage("user", "floor")], script.tokens), 2):
            body.append(Chunk(turn_id=TURN_ID, seq=seq, at=AT, text=text))
    completed = TurnCompleted(
        turn_id=TURN_ID,
        seq=len(body) + 2,
        at=AT,
        finish_reason="stop",
        usage=Usage(1, script.tokens),
        chunks=script.tokens,
        message_count=2,
        elapsed_ms=1.0,
        sha256="0" * 64,
    )
    return [started, *body, completed]


class Script(Generic[M]):
    """The turn in the messages of one wire."""

    def __init__(
        self, script: ScriptOptions, encode: Callable[[AnyEvent], list[M]], stamp: Callable[[M, float], M]
    ) -> None:
        """``encode`` makes messages of an event; ``stamp`` puts a time (epoch ms) into a message."""
        self._options = script
        self._messages = [message for event in events(script) for message in encode(event)]
        self._stamp = stamp
        self._open = 0
        self._gate = asyncio.Event()

    async def play(self, send: Callable[[M], Awaitable[object]]) -> None:
        """Send the whole turn to one reader."""
        messages = self._messages
        if self._options.gate or self._options.hold:
            await send(messages[0])
            await self._wait()
            messages = messages[1:]
        if not self._options.rate:
            for message in messages:
                await send(message)
                await asyncio.sleep(0)
            return
        clock = asyncio.get_running_loop().time
        begun, gap_s = clock(), 1 / self._options.rate
        for i, message in enumerate(messages):
            wait_s = begun + i * gap_s - clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await send(self._stamp(message, time.time() * 1000))

    async def _wait(self) -> None:
        self._open += 1
        if self._options.hold:
            await asyncio.Event().wait()
        if self._open >= self._options.gate:
            self._gate.set()
        await self._gate.wait()
