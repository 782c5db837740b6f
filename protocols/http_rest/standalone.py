"""REST in one file, to copy into a project of your own: POST a message, wait, get the whole reply (RFC 9110, RFC 8259).

``pip install fastapi uvicorn httpx``, then ``python standalone.py serve`` and ``python standalone.py ask hello``, or neither: both.

What server.py and client.py have and this has not: an Idempotency-Key, so that repeating a lost request is paid once; sessions
and a store; cancelling; one table of errors; limits on sizes, time and origins; a key; draining on SIGTERM; pictures; statistics.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

PORT = int(os.environ.get("PORT", "8100"))
app = FastAPI()


class Question(BaseModel):
    """The request's body; what does not fit it is answered 422 before the model is asked."""

    message: str = Field(min_length=1, max_length=10_000)


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


@app.post("/chat")
async def chat(question: Question) -> dict[str, str]:
    """Nothing can be sent before all is there: the status line comes first, and it must say how it went."""
    return {"text": "".join([token async for token in model(question.message)])}


async def ask(message: str) -> None:
    """One request, one answer. A reply that takes longer than the timeout is lost, though it was made and paid."""
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(f"http://127.0.0.1:{PORT}/chat", json={"message": message})
        print(answer.raise_for_status().json()["text"])


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
