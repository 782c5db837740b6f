"""Calls of a gRPC server with the library's own channel and stubs, for the tests; no code of this project's client."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from grpc_status import rpc_status

from protocols.grpc import chat_pb2 as pb
from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from shared.client.protocol import ChatClient


@asynccontextmanager
async def channel_to(address: str, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """A channel of its own, with the library's defaults. (The types of its stubs are stricter than the library.)"""
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


@asynccontextmanager
async def calling(address: str, *options: tuple[str, int]) -> AsyncIterator[Any]:
    """The generated stub of the chat on such a channel."""
    async with channel_to(address, *options) as channel:
        yield ChatServiceStub(channel)


async def status_of(call: Any) -> tuple[str, str | None, str]:
    """How a call ends: the status, the code in its details, and the message."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        rich = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = ErrorInfo()
        found = rich is not None and any(detail.Unpack(info) for detail in rich.details)
        return error.code().name, info.reason.lower() if found else None, error.details() or ""
    return "OK", None, ""


class Talk:
    """A ``Chat`` stream: sends messages, and waits for the server's messages in order."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.heard: list[pb.ChatResponse] = []

    async def say(self, **body: Any) -> None:
        await self.call.write(pb.ChatRequest(**body))

    async def until(self, name: str, timeout_s: float = 10.0) -> Any:
        """The next message of this name, or the next one whose event has this name."""
        async with asyncio.timeout(timeout_s):
            while (response := await self.call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self.heard.append(response)
                which = response.WhichOneof("body")
                if which == name:
                    return getattr(response, name)
                if which == "event" and response.event.WhichOneof("body") == name:
                    return response.event
        raise AssertionError(f"the stream ended without {name}")

    async def end(self) -> tuple[str, str | None, str]:
        """The status with which the call ends."""

        async def read_on() -> None:
            while (response := await self.call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self.heard.append(response)

        return await status_of(read_on())

    def events(self, turn_id: str) -> list[pb.Event]:
        return [it.event for it in self.heard if it.WhichOneof("body") == "event" and it.event.turn_id == turn_id]


@asynccontextmanager
async def talking(address: str) -> AsyncIterator[Talk]:
    async with calling(address) as stub:
        call = stub.Chat()
        talk = Talk(call)
        first = await talk.until("connected")
        assert first.connection_id
        assert first.server_info.framework == f"grpcio {grpc.__version__}"
        yield talk
        call.cancel()


async def anything_streams(client: ChatClient, count: int) -> bool:
    return (await client.stats()).streams_active == count


async def run(*command: str, cwd: Path | None = None) -> str:
    """A program's output. Raises AssertionError with its own words when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {err.decode()}"
    return out.decode()
