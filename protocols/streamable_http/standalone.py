"""NDJSON over HTTP in one file, to copy into a project of your own: POST, then a line of JSON for each token (RFC 9112, 7.1).

``pip install fastapi uvicorn httpx``, then ``python standalone.py serve`` and ``python standalone.py ask hello``;
without an argument the file serves and asks in one process.

What server.py and client.py have and this has not: numbered events in a log, so that a client continues a cut stream
where it stopped; heartbeats; a turn that outlives its reader; an Idempotency-Key; sessions; cancelling; one table of
errors; limits; a key; draining on SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

PORT = int(os.environ.get("PORT", "8101"))
app = FastAPI()


class Question(BaseModel):
    """The request's body. FastAPI answers 422 to any other body, before the stream begins."""

    message: str = Field(min_length=1, max_length=10_000)


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


@app.post("/chat")
async def chat(question: Question) -> StreamingResponse:
    """The headers keep caches from storing the lines, and proxies from collecting or compressing them."""
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform"}
    return StreamingResponse(stream(question.message), media_type="application/x-ndjson", headers=headers)


async def stream(message: str) -> AsyncIterator[str]:
    """The last line says how the reply ended, because the status 200 went out first. Without that line the stream was cut."""
    try:
        async for token in model(message):
            yield json.dumps({"text": token}) + "\n"
        yield '{"end": "completed"}\n'
    except Exception:
        # The traceback is for the log; the client reads only that the model failed.
        logging.exception("the model failed")
        yield '{"end": "failed"}\n'


async def ask(message: str) -> None:
    """An HTTP chunk may hold half a line or three, so split at line feeds. A connection that breaks raises httpx.HTTPError."""
    end = "cut"
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"http://127.0.0.1:{PORT}/chat", json={"message": message}) as answer,
    ):
        async for line in answer.raise_for_status().aiter_lines():
            event = json.loads(line)
            print(event.get("text", ""), end="", flush=True)
            end = event.get("end", end)
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
