"""The take-home files: copied out of the project, each serves and asks by itself, as a program somebody else would run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocols import TRANSPORTS

ROOT = Path(__file__).resolve().parents[1]
WORDS = tuple(TRANSPORTS)
REPLY = "You said “{}”. Put a model here and it will answer. "


@pytest.fixture
def copy(word: str, tmp_path: Path) -> Path:
    """The file alone in a folder."""
    return Path(shutil.copy(ROOT / "protocols" / TRANSPORTS[word].folder / "standalone.py", tmp_path))


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@asynccontextmanager
async def running(file: Path, port: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        file.name,
        *arguments,
        cwd=file.parent,
        env={**os.environ, "PORT": port, "PYTHONIOENCODING": "utf-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(file: Path, port: str, *arguments: str) -> tuple[int | None, str, str]:
    async with running(file, port, *arguments) as process:
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def listening(port: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", int(port))
                writer.close()
                return
            await asyncio.sleep(0.02)


def test_it_is_one_short_file(copy: Path) -> None:
    """Nothing of the project is imported, and what does the work is about fifty lines."""
    text = copy.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"shared", "protocols", "compare"} & {name.partition(".")[0] for name in names}
    docstring = ast.get_docstring(tree) or ""
    assert "and this has not:" in docstring
    lines = [line for line in text.split("\n") if line.strip()]
    assert len(lines) - len(docstring.split("\n")) <= 70


async def test_both_in_one(copy: Path) -> None:
    status, out, err = await run(copy, free_port())
    assert (status, out.rstrip("\n"), err) == (0, REPLY.format("hello"), "")


async def test_serve_and_ask(copy: Path) -> None:
    port = free_port()
    async with running(copy, port, "serve"):
        await listening(port)
        status, out, err = await run(copy, port, "ask", "grüße 🏳️‍🌈")
    assert (status, out.rstrip("\n"), err) == (0, REPLY.format("grüße 🏳️‍🌈"), "")


async def test_a_server_that_dies_is_not_the_end_of_the_reply(word: str, copy: Path) -> None:
    port = free_port()
    async with running(copy, port, "serve") as server:
        await listening(port)
        async with running(copy, port, "ask", "x") as client:
            assert client.stdout is not None
            if TRANSPORTS[word].tokens:
                # Token by token: the first is here, and the server still there.
                assert await client.stdout.readexactly(4) == b"You "
            server.kill()
            rest, err = await client.communicate()
        assert client.returncode not in (0, None)
        assert b"will answer" not in rest
        assert err


async def test_a_refusal(copy: Path) -> None:
    """What does not fit is refused before the model is asked."""
    port = free_port()
    async with running(copy, port, "serve"):
        await listening(port)
        status, out, err = await run(copy, port, "ask", "")
    assert status == 1
    assert not out.strip()
    assert any(words in err for words in ("422", "INVALID_ARGUMENT", "chat with a message"))
