"""Server-Sent Events in one file, to copy into a project of your own: an event for each token (WHATWG HTML, section 9.2).

``pip install fastapi uvicorn httpx``, then ``python standalone.py serve`` and ``python standalone.py ask hello``;
without an argument the file serves and asks in one process.
In a browser: ``new EventSource("/chat?message=hello")``; call its ``close()`` at the event ``end``, or it asks again.

What server.py and client.py have and this has not: ``id:`` with a log behind it, so that a client continues a cut stream
with ``Last-Event-ID`` (without it, a reconnecting EventSource asks the model again); heartbeats; a POST; a turn that
outlives its reader; an Idempotency-Key; sessions; cancelling; one table of errors; limits; a key; draining on SIGTERM;
pictures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import uvicorn
from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse

PORT = int(os.environ.get("PORT", "8102"))
app = FastAPI()


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


@app.get("/chat")
async def chat(message: Annotated[str, Query(min_length=1, max_length=2000)]) -> StreamingResponse:
    """GET, because EventSource sends nothing else. FastAPI answers 422 to an empty or too long message.

    The headers keep caches from storing the events, and proxies from collecting or compressing them.
    """
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform"}
    return StreamingResponse(stream(message), media_type="text/event-stream", headers=headers)


async def stream(message: str) -> AsyncIterator[str]:
    """JSON inside ``data:``, because a line feed in a token would end the field. A blank line ends an event."""
    try:
        async for token in model(message):
            yield f"event: chunk\ndata: {json.dumps(token)}\n\n"
        yield 'event: end\ndata: "completed"\n\n'
    except Exception:
        # The traceback is for the log; the client reads only that the model failed.
        logging.exception("the model failed")
        yield 'event: end\ndata: "failed"\n\n'


async def ask(message: str) -> None:
    """Read the part of the format that ``stream`` writes; httpx-sse reads all of it. A broken connection raises httpx.HTTPError."""
    end, name = "cut", ""
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("GET", f"http://127.0.0.1:{PORT}/chat", params={"message": message}) as answer,
    ):
        async for line in answer.raise_for_status().aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "chunk":
                print(json.loads(value), end="", flush=True)
            elif field == "data":
                end = json.loads(value)
    print()
    if end != "completed":
        sys.exit(f"the reply is not whole: {end}")


async def main(command: str = "both", message: str = "hello") -> None:
    """``serve``, ``ask [MESSAGE]``, or both in one process."""
    if command == "ask":
        return await ask(message)
    server = uvicorn.Server(uvicorn.Config(app, port=PORT, log_level="warning"))
    if command == "serve":
        return await server.serve()
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    try:
        await ask(message)
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
