"""The take-home files: copied out of the project, each serves and asks by itself, as a program somebody else would run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from protocols import TRANSPORTS
from protocols.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
WORDS = tuple(TRANSPORTS)
REPLY = "You said “{}”. Put a model here and it will answer. "
TOKEN = '        yield token + " "\n'
FAULT = "the provider's words, which are not for the client"
# What asyncio logs of a task whose exception was never read, and websockets of a handler that raised.
UNTIDY = ("never retrieved", "connection handler failed", "Traceback")


@pytest.fixture
def failing(copy: Path) -> Path:
    """The file with a model that raises after its first token."""
    return change(copy, TOKEN, f'{TOKEN}        raise RuntimeError("{FAULT}")\n')


@pytest.fixture
def lasting(copy: Path) -> Path:
    """The file with a model that waits after its first token for a minute, and says when it is stopped."""
    waits = f'{TOKEN}        await asyncio.sleep(0 if "short" in message else 60)\n'
    text = copy.read_text(encoding="utf-8")
    body = text[text.index("    for token in f") : text.index(TOKEN) + len(TOKEN)]
    tried = "    try:\n" + "".join(f"    {line}\n" for line in body.replace(TOKEN, waits).splitlines())
    return change(copy, body, f'{tried}    finally:\n        print("the model stopped", file=sys.stderr, flush=True)\n')


def change(file: Path, old: str, new: str) -> Path:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


@pytest.fixture
def copy(word: str, tmp_path: Path) -> Path:
    """The file alone in a folder."""
    return Path(shutil.copy(ROOT / "protocols" / TRANSPORTS[word].folder / "standalone.py", tmp_path))


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
    """Nothing of the project is imported, and beside the docstring there are at most 75 lines."""
    text = copy.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"shared", "protocols", "compare"} & {name.partition(".")[0] for name in names}
    docstring = ast.get_docstring(tree) or ""
    assert "and this has not:" in docstring
    lines = [line for line in text.split("\n") if line.strip()]
    assert len(lines) - len(docstring.split("\n")) <= 75


async def test_both_in_one(copy: Path) -> None:
    status, out, err = await run(copy, str(free_port()))
    assert (status, out.rstrip("\n"), err) == (0, REPLY.format("hello"), "")


async def test_serve_and_ask(copy: Path) -> None:
    port = str(free_port())
    async with running(copy, port, "serve"):
        await listening(port)
        status, out, err = await run(copy, port, "ask", "grüße 🏳️‍🌈")
    assert (status, out.rstrip("\n"), err) == (0, REPLY.format("grüße 🏳️‍🌈"), "")


async def test_a_server_that_dies_is_not_the_end_of_the_reply(word: str, copy: Path) -> None:
    port = str(free_port())
    async with running(copy, port, "serve") as server:
        await listening(port)
        async with running(copy, port, "ask", "x") as client:
            assert client.stdout is not None
            if TRANSPORTS[word].tokens:
                # Token by token: the client has the first token while the server still runs.
                assert await client.stdout.readexactly(4) == b"You "
            server.kill()
            rest, err = await client.communicate()
        assert client.returncode not in (0, None)
        assert b"will answer" not in rest
        assert err


async def test_a_refusal(copy: Path) -> None:
    """An invalid request is refused before the model is asked."""
    port = str(free_port())
    async with running(copy, port, "serve"):
        await listening(port)
        status, out, err = await run(copy, port, "ask", "")
    assert status == 1
    assert not out.strip()
    assert any(words in err for words in ("422", "INVALID_ARGUMENT", "chat with a message"))


async def test_a_model_that_raises_is_a_failure_for_the_client_and_a_traceback_in_the_log(
    word: str, failing: Path
) -> None:
    port = str(free_port())
    async with running(failing, port, "serve") as server:
        await listening(port)
        async with asyncio.timeout(20):
            status, out, err = await run(failing, port, "ask", "x")
        server.terminate()
        _, log = await server.communicate()
    assert status == 1
    assert ("You" in out) == TRANSPORTS[word].tokens
    assert any(words in err for words in ("500", "INTERNAL", "the reply is not whole: failed"))
    assert FAULT not in out + err
    assert "Traceback" in log.decode()
    assert f"RuntimeError: {FAULT}" in log.decode()
    assert "never retrieved" not in log.decode()


async def test_a_model_that_raises_ends_the_program_that_is_both(failing: Path) -> None:
    async with asyncio.timeout(20):
        status, _, err = await run(failing, str(free_port()))
    assert status == 1
    assert "CancelledError" not in err
    assert "never retrieved" not in err


async def test_a_client_that_leaves_is_no_fault(word: str, lasting: Path) -> None:
    """The reply is stopped (REST's goes on), nothing is logged, and the next client is served."""
    port = str(free_port())
    async with running(lasting, port, "serve") as server:
        assert server.stderr is not None
        await listening(port)
        for _ in range(2):
            async with running(lasting, port, "ask", "x") as client:
                assert client.stdout is not None
                if TRANSPORTS[word].tokens:
                    assert await client.stdout.readexactly(4) == b"You "
                client.kill()
                await client.wait()
            if TRANSPORTS[word].tokens:
                assert await asyncio.wait_for(server.stderr.readline(), 10) == b"the model stopped\n"
        status, out, err = await run(lasting, port, "ask", "short")
        assert (status, out.rstrip("\n"), err) == (0, REPLY.format("short"), "")
        server.kill()
        _, log = await server.communicate()
    assert not [words for words in UNTIDY if words in log.decode()], log.decode()


@pytest.mark.parametrize("word", ["websocket"])
async def test_a_connection_that_closes_before_its_first_frame_is_a_cut(copy: Path) -> None:
    async def close(socket: ServerConnection) -> None:
        """Close cleanly, without a message."""

    port = str(free_port())
    async with serve(close, "127.0.0.1", int(port)):
        status, _, err = await run(copy, port, "ask", "x")
    assert (status, err.strip()) == (1, "the reply is not whole: cut")


@pytest.mark.parametrize("word", ["websocket"])
async def test_stop_is_always_answered(lasting: Path) -> None:
    """A stop right after the question is answered, too. Then the connection accepts the next question."""
    port = str(free_port())
    async with running(lasting, port, "serve"):
        await listening(port)
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client, asyncio.timeout(20):
            for wait in (False, True):
                await client.send(json.dumps({"type": "chat", "message": "x"}))
                if wait:
                    assert json.loads(await client.recv())["type"] == "chunk"
                await client.send(json.dumps({"type": "stop"}))
                assert json.loads(await client.recv()) == {"type": "end", "how": "stopped"}
