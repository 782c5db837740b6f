"""A reply of more than 3 MiB: every answer about it fits a default gRPC channel (4 MiB), and says that the text is cut."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE

import apsw
import pytest

from protocols.grpc import chat_pb2 as pb
from shared.client.protocol import collect
from tests.conftest import Connect, Servers
from tests.grpc_calls import calling

MAX_BYTES = 3 * 1024 * 1024
# Two bytes a letter: 4 MiB in 20 paragraphs.
LONG = "\n\n".join(["ä" * 105_000] * 20)


@pytest.fixture
async def long_turn(servers: Servers, client: Connect) -> tuple[str, str]:
    """The session and the turn of a reply of 4 MiB, as a model might have given it."""
    reply = await collect((await client("ndjson")).chat("/tokens 1 hello"))
    assert reply.session_id is not None
    connection = apsw.Connection(str(servers.store))
    connection.set_busy_timeout(10_000)
    connection.execute("UPDATE turns SET text = ? WHERE turn_id = ?", (LONG, reply.turn_id))
    connection.close()
    return reply.session_id, reply.turn_id


async def test_a_snapshot_is_cut(client: Connect, long_turn: tuple[str, str], word: str) -> None:
    turn = await (await client(word)).get_turn(long_turn[1])
    assert turn.truncated
    assert MAX_BYTES - 4 < len(turn.text.encode()) <= MAX_BYTES
    assert LONG.startswith(turn.text)


async def test_a_default_channel_accepts_the_snapshot(servers: Servers, long_turn: tuple[str, str]) -> None:
    async with calling(servers["grpc"].address) as stub:
        turn = await stub.GetTurn(pb.GetTurnRequest(turn_id=long_turn[1]))
        assert (turn.truncated, turn.status) == (True, "completed")
        assert MAX_BYTES < turn.ByteSize() < 4 * 1024 * 1024


async def test_the_shell_says_that_a_text_is_cut(servers: Servers, long_turn: tuple[str, str]) -> None:
    command = (sys.executable, "-m", "protocols", "chat", "ndjson", "--session", long_turn[0])
    port = servers["ndjson"].address.rpartition(":")[2]
    shell = await asyncio.create_subprocess_exec(
        *command, "--port", port, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, "NO_COLOR": "1"}
    )
    async with asyncio.timeout(60):
        said, told = await shell.communicate(b"/history\n")
    assert b"cut at 3 MiB: the turn's log has the whole text" in said + told
    assert shell.returncode == 0
