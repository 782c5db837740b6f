"""Streamable HTTP in one file, to copy into a project of your own: POST, then a line of JSON for each token (RFC 9112, 7.1).

``pip install fastapi uvicorn httpx``, then ``python standalone.py serve`` and ``python standalone.py ask hello``, or neither: both.

What server.py and client.py have and this has not: events with numbers and a log of them, so that a cut stream goes on where it
stopped; heartbeats; a turn that outlives its reader; an Idempotency-Key; sessions; cancelling; one table of errors; limits; a key;
draining on SIGTERM; pictures.
"""

from __future__ import annotations

import asyncio
import json
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
    """The request's body; what does not fit it is answered 422 before the stream begins."""

    message: str = Field(min_length=1, max_length=10_000)


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


@app.post("/chat")
async def chat(question: Question) -> StreamingResponse:
    """The header keeps proxies from collecting the lines before they pass them on."""
    lines = stream(question.message)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"X-Accel-Buffering": "no"})


async def stream(message: str) -> AsyncIterator[str]:
    """The status, 200, has gone: how it ended is the last line, and its absence means that the line was cut."""
    try:
        async for token in model(message):
            yield json.dumps({"text": token}) + "\n"
        yield '{"end": "completed"}\n'
    except Exception:  # noqa: BLE001 - the text of a fault must not travel
        yield '{"end": "failed"}\n'


async def ask(message: str) -> None:
    """An HTTP chunk may hold half a line or three: only the line feed counts. A line that breaks raises httpx.HTTPError."""
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
    serving = asyncio.create_task(server.serve())
    if command == "both":
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        await ask(message)
        server.should_exit = True
    return await serving


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
