"""REST in one file, to copy into a project of your own: POST a message, wait, get the whole reply (RFC 9110, RFC 8259).

``pip install fastapi uvicorn httpx``, then ``python standalone.py serve`` and ``python standalone.py ask hello``;
without an argument the file serves and asks in one process.

What server.py and client.py have and this has not: an Idempotency-Key, so that repeating a lost request is paid once;
sessions and a store; cancelling, also when the client leaves; one table of errors; limits on sizes, time and origins;
a key; draining on SIGTERM; pictures; statistics.
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
    """The request's body. FastAPI answers 422 to any other body, and the model is not asked."""

    message: str = Field(min_length=1, max_length=10_000)


async def model(message: str) -> AsyncIterator[str]:
    """Your model: the tokens of a reply, as they come."""
    for token in f"You said “{message}”. Put a model here and it will answer.".split():
        await asyncio.sleep(0.05)
        yield token + " "


@app.post("/chat")
async def chat(question: Question) -> dict[str, str]:
    """The status line says how the reply ended and comes first, so nothing is sent before the reply is whole.

    When the model raises, the answer is a 500 and uvicorn logs the traceback.
    """
    return {"text": "".join([token async for token in model(question.message)])}


async def ask(message: str) -> None:
    """One request, one answer. A reply that takes longer than the timeout is lost, but the model still makes all of it."""
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(f"http://127.0.0.1:{PORT}/chat", json={"message": message})
        print(answer.raise_for_status().json()["text"])


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
