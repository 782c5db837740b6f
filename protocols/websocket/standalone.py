"""WebSocket in one file, to copy into a project of your own: ask, read tokens, stop in the middle, ask again (RFC 6455).

``pip install websockets``, then ``python standalone.py serve`` and ``python standalone.py ask hello``;
without an argument the file serves and asks in one process.

What server.py and client.py have and this has not: HTTP routes beside the socket; numbered events in a log, so that a
new connection continues where the old one was cut; several turns at once and several people; sessions; one table of
errors; a check of Origin (``origins=`` of ``serve``; without it any page may connect); tickets for a key; draining on
SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

PORT = int(os.environ.get("PORT", "8103"))


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


async def converse(socket: ServerConnection) -> None:
    """Read on while a reply is being sent, so that the client can stop it. When the client leaves, its reply is stopped."""
    answering: asyncio.Task[None] | None = None
    with suppress(ConnectionClosed):
        async for frame in socket:
            asked = None
            with suppress(ValueError, RecursionError):
                asked = json.loads(frame)
            match asked:
                case {"type": "stop"}:
                    if answering is not None and answering.cancel():
                        await asyncio.wait([answering])
                        if answering.cancelled():
                            await tell(socket, type="end", how="stopped")
                case {"type": "chat", "message": str(text)} if text and (answering is None or answering.done()):
                    answering = asyncio.create_task(answer(socket, text))
                case _:
                    await tell(socket, type="error", message="chat with a message, one at a time, or stop")
    if answering is not None:
        answering.cancel()


async def answer(socket: ServerConnection, message: str) -> None:
    """The tokens, then a message that says how the reply ended, because the connection stays open."""
    how = "failed"
    try:
        async for token in model(message):
            await tell(socket, type="chunk", text=token)
        how = "completed"
    except Exception:
        # The traceback is for the log; the client reads only that the model failed.
        logging.exception("the model failed")
    await tell(socket, type="end", how=how)


async def tell(socket: ServerConnection, **message: str) -> None:
    """Send one message. A client that has left gets nothing; ``converse`` sees the end and stops the reply."""
    with suppress(ConnectionClosed):
        await socket.send(json.dumps(message))


async def ask(message: str) -> None:
    """One question on a connection that could carry many. A connection that closes early is a reply that was cut."""
    end = "cut"
    async with connect(f"ws://127.0.0.1:{PORT}", proxy=None) as socket:
        with suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": "chat", "message": message}))
            while (event := json.loads(await socket.recv()))["type"] == "chunk":
                print(event["text"], end="", flush=True)
            end = event.get("how") or event["message"]
    print()
    if end != "completed":
        sys.exit(f"the reply is not whole: {end}")


async def main(command: str = "both", message: str = "hello") -> None:
    """``serve``, ``ask [MESSAGE]``, or both in one process."""
    if command == "ask":
        return await ask(message)
    async with serve(converse, "127.0.0.1", PORT, max_size=64 * 1024, compression=None) as server:
        return await (ask(message) if command == "both" else server.serve_forever())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
