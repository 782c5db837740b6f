"""A power cut loses events that the shell, a pipe and the one-shot command have shown: they say so."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sequence_diagrams.terminal import PtyTerminal
from shared.client.printed import PrintedReply
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import until
from tests.power_cut import machine

MESSAGE = "Explain power cuts"
TOKENS = 5000


class Program:
    """``python -m protocols chat sse`` with pipes: all that it has written."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out, self.err = b"", b""

    async def read(self) -> None:
        """Read stdout and stderr to their ends."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        while data := await self.process.stdout.read(65_536):
            self.out += data
        self.err = await self.process.stderr.read()


@asynccontextmanager
async def program(port: str, *arguments: str, typed: str = "") -> AsyncIterator[Program]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "protocols", "chat", "sse", "--port", port, *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    process.stdin.write(typed.encode())
    process.stdin.close()
    running = Program(process)
    async with asyncio.TaskGroup() as group:
        group.create_task(running.read())
        yield running
    await process.wait()


async def test_a_power_cut_in_the_middle_of_answers(tmp_path: Path) -> None:
    slow = {"OFFLINE_TOKENS": str(TOKENS), "OFFLINE_TOKENS_PER_S": "50", "LEASE_S": "1", "RETRY_MS": "50"}
    async with machine(tmp_path, {"sse": 0}, **slow) as cut:
        port = cut.servers["sse"].address.rpartition(":")[2]
        env = {"SSE_PORT": port, "XDG_STATE_HOME": str(tmp_path / "state"), "NO_PROXY": "*"}
        terminal = PtyTerminal("sse", env, cwd=tmp_path)
        try:
            await asyncio.to_thread(terminal.wait, r"offline-1 \(offline\)")
            async with (
                program(port, MESSAGE) as once,
                program(port, "--json", MESSAGE) as lines,
                program(port, typed=MESSAGE) as piped,
            ):
                await asyncio.to_thread(terminal.do, f"{MESSAGE}\r", r"I am an offline stand-in")
                programs = (once, lines, piped)
                await until(lambda: all(len(one.out) > 100 for one in programs))
                await asyncio.to_thread(cut.remember)
                kept = [len(one.out) for one in programs]
                await until(lambda: all(len(one.out) > size + 100 for one, size in zip(programs, kept, strict=True)))
                await cut.cut_power()
                await asyncio.to_thread(
                    terminal.wait, r"── the store lost \d+ events: the answer again, as it is kept ──"
                )
                await asyncio.to_thread(terminal.wait, r"^interrupted by the server, partial answer kept")
                await asyncio.to_thread(terminal.wait, r"the store lost \d+ events? that had been shown$")
        finally:
            terminal.close()
    whole = "".join(reply_tokens([ContextMessage("user", MESSAGE)], TOKENS))
    for one, told in ((once, b"[the store lost "), (piped, "── the store lost ".encode())):
        assert whole.startswith(one.out.decode().rstrip("\n")), "a part is missing, or shown twice"
        assert told in one.err
        assert one.process.returncode == 1
    assert b"interrupted: the server stopped in the middle" in once.err
    said = [json.loads(line) for line in lines.out.splitlines()]
    at = [item["type"] for item in said].index("cursor_lost")
    assert said[at] == {
        "type": "cursor_lost", "turn_id": said[0]["turn_id"], "after": at, "last_seq": len(said) - at - 1,
    }  # fmt: skip
    assert [item["seq"] for item in said[:at]] == list(range(1, at + 1))
    assert [item["seq"] for item in said[at + 1 :]] == list(range(1, len(said) - at))
    assert (said[-1]["type"], said[-1]["epoch"]) == ("turn_interrupted", 1)


def test_what_is_printed_already_is_not_printed_again() -> None:
    reply = PrintedReply()
    assert [reply.add(text) for text in ("Hel", "lo ", "there")] == ["Hel", "lo ", "there"]
    reply.rewind()
    assert [reply.add(text) for text in ("Hello", " ")] == ["", ""]
    reply.rewind()
    assert [reply.add(text) for text in ("Hello th", "ere, Ada", "!")] == ["", ", Ada", "!"]
    assert reply.text == "Hello there, Ada!"
    reply.rewind()
    assert [reply.add(text) for text in ("Hello ", "Bob")] == ["", "\nHello Bob"]
