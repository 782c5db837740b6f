"""A server goes on when no program reads its log, when the log's reader is gone, or when the log's disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from protocols import TRANSPORTS
from shared.client.protocol import Ask, ChatClient, collect
from shared.logger import open_logger
from shared.server.log_sink import LogSink
from tests.conftest import FAST, until

TURNS = 160


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    ends = {reading, writing}
    try:
        yield reading, writing
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def test_lines_that_find_no_room_are_dropped_and_counted() -> None:
    with pipe() as (reading, writing), LogSink(writing) as sink:
        for number in range(50_000):
            sink.write(f"line {number} {'x' * 50}\n")
        os.set_blocking(reading, False)
        read, lines, dropped, more = b"", list[str](), 0, 0
        # Every line is kept or counted. A count may come while more lines are dropped, and then another count follows.
        while len(lines) + dropped < 50_000 + more:
            try:
                read += os.read(reading, 1 << 20)
            except BlockingIOError:
                # A count comes with the next line that is written.
                sink.write("and on\n")
                more += 1
                time.sleep(0.05)
            said = read.rpartition(b"\n")[0].decode().splitlines()
            lines = [line for line in said if "log lines dropped" not in line]
            dropped = sum(json.loads(line)["count"] for line in said if "log lines dropped" in line)
    kept = [line.split()[1] for line in lines if line.startswith("line")]
    assert kept == [str(number) for number in range(len(kept))]
    assert len(lines) + dropped == 50_000 + more
    assert dropped > 0


def test_a_line_with_other_characters_is_ascii_and_says_its_time() -> None:
    out = io.StringIO()
    logger = open_logger("test", out)
    for word in ("cafe", "café"):
        logger.info("said", word=word)
    for line, word in zip(out.getvalue().splitlines(), ("cafe", "café"), strict=True):
        assert line.isascii()
        assert json.loads(line)["word"] == word
        assert datetime.fromisoformat(json.loads(line)["timestamp"]).utcoffset() == timedelta(0)


def test_a_reader_that_is_gone_raises_nothing() -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        with LogSink(writing) as sink:
            logger = open_logger("test", sink)
            for _ in range(100):
                logger.info("said to nobody")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_raises_nothing() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with LogSink(fd) as sink:
            open_logger("test", sink).error("said to nobody")
    finally:
        os.close(fd)


def test_no_value_acts_on_a_terminal() -> None:
    """Control characters, C1 and bidi controls of a client are signs in every value, a traceback's included."""
    evil = "m\x1b]0;PWNED\x07\x1b[2J\x9b31m\u202egnp.exe\r\nforged line"
    main, side = pty.openpty()
    try:
        with LogSink(side) as sink:
            logger = open_logger("test", sink)
            logger.info("chat started", model=evil, path=evil)
            try:
                raise ValueError(evil)
            except ValueError:
                logger.exception("model failed", why=evil)
        read = os.read(main, 1 << 16).decode()
    finally:
        os.close(main)
        os.close(side)
    assert not set(read) & set("\x07\x9b\u202e")
    assert "\x1b]" not in read
    assert "\x1b[2J" not in read
    # The traceback alone keeps its lines.
    assert [line for line in read.splitlines() if line.startswith("forged")] == ["forged line"]


class QuietServer:
    """A server process whose stderr the test reads only as far as its first line."""

    def __init__(self, process: asyncio.subprocess.Process, log: BinaryIO, word: str, address: str) -> None:
        self.process = process
        self.log = log
        self.word = word
        self.address = address


@contextlib.asynccontextmanager
async def quiet_server(word: str, store: Path) -> AsyncIterator[QuietServer]:
    reading, writing = os.pipe()
    # An object, because a number that is closed twice may belong to another file at the second time.
    log: BinaryIO = os.fdopen(reading, "rb", buffering=0)
    command = ("-m", "protocols", "serve", word, "--port", "0")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **FAST, "STORE_URL": f"sqlite:///{store}"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    try:
        first = b""
        while b"\n" not in first:
            first += await asyncio.to_thread(log.read, 1)
        yield QuietServer(process, log, word, json.loads(first)["address"].rpartition("/")[2])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        log.close()


async def stopped(server: QuietServer) -> int:
    """The exit status after SIGTERM."""
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        return await server.process.wait()


async def test_a_log_whose_reader_is_gone_fails_no_turn(word: str, tmp_path: Path) -> None:
    async with quiet_server(word, tmp_path / "chat.db") as server:
        server.log.close()
        async with aclosing(TRANSPORTS[word].client(server.address)) as client:
            session_id = (await client.create_session()).session_id
            for _ in range(3):
                reply = await collect(client.chat("/tokens 5 hello", session_id=session_id))
                assert reply.status == "completed"
            assert (await client.get_session(session_id)).running_turn_id is None
        assert await stopped(server) == 0


async def test_a_log_that_nobody_reads_stops_nothing(word: str, tmp_path: Path) -> None:
    """A pipe holds 64 KiB, which is the log of about 120 turns."""
    async with quiet_server(word, tmp_path / "chat.db") as server:
        async with aclosing(TRANSPORTS[word].client(server.address)) as client:
            for _ in range(TURNS // 20):
                asks = [client.start(Ask(text="/tokens 2 hello")) for _ in range(20)]
                turns = await asyncio.gather(*asks)
            assert await until(lambda: completed(client, turns[-1].turn_id))
            assert (await client.stats()).requests_total == TURNS
        assert await stopped(server) == 0


async def completed(client: ChatClient, turn_id: str) -> bool:
    return (await client.get_turn(turn_id)).status == "completed"
