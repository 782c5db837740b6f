"""WebSocket in one file, to copy into a project of your own: ask, read tokens, stop in the middle, ask again (RFC 6455).

``pip install websockets``, then ``python standalone.py serve`` and ``python standalone.py ask hello``, or neither: both.

What server.py and client.py have and this has not: HTTP routes beside the socket; numbered events with a log behind them, so that a
new connection goes on where the old one was cut; several turns at once and several people; sessions; one table of errors; a check
of Origin (``origins=`` of ``serve``; without it any page may connect); tickets for a key; draining on SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

PORT = int(os.environ.get("PORT", "8103"))


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


async def converse(socket: ServerConnection) -> None:
    """Read on while a reply is being sent: that is what a second direction is for."""
    answering: asyncio.Task[None] | None = None
    async for frame in socket:
        try:
            asked = json.loads(frame)
            kind, text = asked["type"], asked.get("message")
        except (ValueError, TypeError, LookupError, AttributeError):
            kind, text = "unknown", None
        if kind == "stop":
            if answering is not None:
                answering.cancel()
        elif kind == "chat" and isinstance(text, str) and text and (answering is None or answering.done()):
            answering = asyncio.create_task(answer(socket, text))
        else:
            await socket.send('{"type": "error", "message": "chat with a message, one at a time, or stop"}')
    if answering is not None:
        answering.cancel()


async def answer(socket: ServerConnection, message: str) -> None:
    """The tokens, then how it ended: a message of its own, because the connection stays."""
    end = "failed"
    try:
        async for token in model(message):
            await socket.send(json.dumps({"type": "chunk", "text": token}))
        end = "completed"
    except asyncio.CancelledError:
        end = "stopped"
    await socket.send(json.dumps({"type": "end", "how": end}))


async def ask(message: str) -> None:
    """One question on a connection that could take many. A broken one raises ConnectionClosed."""
    async with connect(f"ws://127.0.0.1:{PORT}", proxy=None) as socket:
        await socket.send(json.dumps({"type": "chat", "message": message}))
        async for frame in socket:
            event = json.loads(frame)
            print(event.get("text", ""), end="", flush=True)
            if event["type"] != "chunk":
                break
    print()
    if event.get("how") != "completed":
        sys.exit(f"the reply is not whole: {event}")


async def main(command: str = "both", message: str = "hello") -> None:
    """``serve``, ``ask [MESSAGE]``, or both in one process."""
    if command == "ask":
        return await ask(message)
    async with serve(converse, "127.0.0.1", PORT, max_size=64 * 1024, compression=None) as server:
        return await (ask(message) if command == "both" else server.serve_forever())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
