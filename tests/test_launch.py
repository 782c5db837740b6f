"""Starting and stopping: every way to start from every folder, refusals, signals with a stream open, serve all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocols import TRANSPORTS
from protocols.ports import free_ports_in_a_row
from shared.events import TurnCompleted, TurnInterrupted
from shared.reply import Reply
from tests.conftest import FAST, WORDS, until

ROOT = Path(__file__).resolve().parents[1]
# The README promises a second or two. Machines that run tests are busier.
UP_S, STOP_S = 15.0, 5.0

Command = Callable[[str], list[str]]
WAYS: dict[str, Command] = {
    "file": lambda word: [str(ROOT / "protocols" / TRANSPORTS[word].folder / "server.py")],
    "module": lambda word: ["-m", f"protocols.{TRANSPORTS[word].folder}.server"],
    "entry": lambda word: ["-m", "protocols", "serve", word],
}
FOLDERS: dict[str, Callable[[str, Path], Path]] = {
    "root": lambda word, tmp: ROOT,
    "protocols": lambda word, tmp: ROOT / "protocols",
    "leaf": lambda word, tmp: ROOT / "protocols" / TRANSPORTS[word].folder,
    "elsewhere": lambda word, tmp: tmp,
}
# Every way and every folder for gRPC, whose folder has the name of a library; elsewhere each way and folder at least
# once.
STARTS = [("grpc", way, folder) for way in WAYS for folder in FOLDERS] + [
    (word, way, tuple(FOLDERS)[(row + column) % len(FOLDERS)])
    for row, word in enumerate(word for word in WORDS if word != "grpc")
    for column, way in enumerate(WAYS)
]


def environment(tmp: Path, **more: str) -> dict[str, str]:
    return {**os.environ, **FAST, "STORE_URL": f"sqlite:///{tmp / 'chat.db'}", "PYTHONWARNINGS": "error", **more}


@contextmanager
def started(command: Sequence[str], *, cwd: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def listening(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The process's next ``listening`` line."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if '"listening"' in line:
            entry: dict[str, Any] = json.loads(line)
            return entry
    pytest.fail(f"it did not start: {''.join(said)}")


def port_of(entry: dict[str, Any]) -> int:
    return int(str(entry["address"]).rpartition(":")[2])


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, float, str]:
    """Send a signal. Returns the exit status, the seconds it took, and what was said on stderr."""
    begun = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    return process.returncode, time.monotonic() - begun, said


@pytest.mark.parametrize(("word", "way", "folder"), STARTS)
def test_starts_every_way_from_everywhere(word: str, way: str, folder: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with started(
        [*WAYS[way](word), "--port", "0"], cwd=FOLDERS[folder](word, tmp_path), env=environment(tmp_path)
    ) as process:
        entry = listening(process)
        assert time.monotonic() - begun < UP_S
        assert entry["transport"] == word
        with socket.create_connection(("127.0.0.1", port_of(entry)), timeout=5):
            pass
        status, _, said = ended(process, signal.SIGINT)
    assert status == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("word", WORDS)
def test_client_starts_as_a_file_from_its_own_folder(word: str) -> None:
    done = subprocess.run(
        [sys.executable, "client.py", "--help"],
        cwd=ROOT / "protocols" / TRANSPORTS[word].folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "MESSAGE" in done.stdout


REFUSALS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "port out of range": (["--port", "99999"], {}, "99999"),
    "port in the settings": ([], {"{WORD}_PORT": "http"}, "{WORD}_PORT"),
    "open to a network without a key": (["--host", "0.0.0.0"], {}, "API_SECRET_KEY"),
    "empty key": ([], {"API_SECRET_KEY": ""}, "API_SECRET_KEY"),
    "redis that is not there": ([], {"STORE_URL": "redis://127.0.0.1:1"}, "is it running"),
    "store in a folder that is a file": ([], {"STORE_URL": f"sqlite:///{__file__}/chat.db"}, "test_launch.py"),
    "unknown provider": ([], {"GENAI_PROVIDER": "nobody"}, "GENAI_PROVIDER"),
    "provider without its key": ([], {"GENAI_PROVIDER": "gemini"}, "GEMINI_API_KEY"),
}


# All five share this code, so each refusal is tried on one of them.
@pytest.mark.parametrize(("why", "word"), list(zip(REFUSALS, WORDS * 2, strict=False)))
def test_refuses_with_one_clear_line(word: str, why: str, tmp_path: Path) -> None:
    arguments, settings, expected = REFUSALS[why]
    more = {name.replace("{WORD}", word.upper()): value for name, value in settings.items()}
    arguments = arguments if "--port" in arguments else [*arguments, *([] if more else ["--port", "0"])]
    done = refused(word, arguments, environment(tmp_path, **more), tmp_path)
    assert expected.replace("{WORD}", word.upper()) in done


@pytest.mark.parametrize("word", WORDS)
def test_refuses_a_port_that_is_taken(word: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(word, ["--port", str(port)], environment(tmp_path), tmp_path)


def refused(word: str, arguments: Sequence[str], env: dict[str, str], cwd: Path) -> str:
    """Start a server that must not start, and return its one line."""
    done = subprocess.run(
        [sys.executable, *WAYS["entry"](word), *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"{word} server cannot start: ")
    return done.stderr


@asynccontextmanager
async def asked(process: subprocess.Popen[str], word: str, message: str) -> AsyncIterator[asyncio.Task[list[Any]]]:
    """A client that reads the answer to ``message``; yielded when the turn runs."""
    address = f"127.0.0.1:{port_of(listening(process))}"
    async with TRANSPORTS[word].client(address, resume=False) as client:
        session = await client.create_session()

        async def read() -> list[Any]:
            return [item async for item in client.chat(message, session_id=session.session_id)]

        reading = asyncio.create_task(read())

        async def running() -> bool:
            return (await client.get_session(session.session_id)).running_turn_id is not None

        await until(running, 20)
        try:
            yield reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def test_sigint_with_an_open_stream(word: str, tmp_path: Path) -> None:
    with started([*WAYS["module"](word), "--port", "0"], cwd=tmp_path, env=environment(tmp_path)) as process:
        async with asked(process, word, "/slow 100 never") as reading:
            status, took_s, said = await asyncio.to_thread(ended, process, signal.SIGINT)
            last = (await reading)[-1]
    assert (status, took_s < STOP_S) == (0, True), (status, took_s)
    assert "Traceback" not in said
    # The terminal event is delivered before the stream closes.
    assert isinstance(last, TurnInterrupted) or (isinstance(last, Reply) and last.status == "interrupted")


async def test_sigterm_lets_a_running_turn_finish(word: str, tmp_path: Path) -> None:
    with started([*WAYS["module"](word), "--port", "0"], cwd=tmp_path, env=environment(tmp_path)) as process:
        async with asked(process, word, "/slow 1 soon") as reading:
            status, _, said = await asyncio.to_thread(ended, process, signal.SIGTERM)
            last = (await reading)[-1]
    assert status == 0
    assert "Traceback" not in said
    assert isinstance(last, TurnCompleted) or (isinstance(last, Reply) and last.status == "completed")


@contextmanager
def all_five(tmp: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    base = free_ports_in_a_row(len(WORDS))
    command = ["-m", "protocols", "serve", "all", "--port-base", str(base)]
    with started(command, cwd=tmp, env=environment(tmp)) as process:
        entries = [listening(process) for _ in WORDS]
        ports = {entry["transport"]: port_of(entry) for entry in entries}
        assert ports == {word: base + number for number, word in enumerate(WORDS)}
        yield process, ports


def gone(ports: dict[str, int]) -> bool:
    """Whether nothing listens any more."""
    for port in ports.values():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return False
    return True


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
def test_serve_all_ends_together(number: int, tmp_path: Path) -> None:
    with all_five(tmp_path) as (process, ports):
        status, took_s, said = ended(process, number)
    assert status == 0
    assert took_s < 2 * STOP_S
    assert gone(ports)
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_serve_all_says_which_one_died(tmp_path: Path) -> None:
    with all_five(tmp_path) as (process, ports):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (victim,) = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "serve sse\n"]
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "the sse server ended by itself: killed by SIGKILL"
    assert gone(ports)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads in /proc")
def test_serve_all_forks_before_there_is_a_thread() -> None:
    """A lock that another thread holds during a fork stays locked in the forked process for ever."""
    code = (
        "import importlib, os, sys; [importlib.import_module(name) for name in sys.argv[1:]];"
        "print(len(os.listdir('/proc/self/task')))"
    )
    modules = [f"protocols.{transport.folder}.server" for transport in TRANSPORTS.values()]
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_serve_all_refuses_when_one_cannot_start(tmp_path: Path) -> None:
    base = free_ports_in_a_row(len(WORDS))
    with socket.create_server(("127.0.0.1", base + 2)):
        done = subprocess.run(
            [sys.executable, "-m", "protocols", "serve", "all", "--port-base", str(base)],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"sse server cannot start: cannot listen on 127.0.0.1:{base + 2} (Address already in use); choose another --port"
    ]
    assert gone({word: base + number for number, word in enumerate(WORDS) if word != "sse"})
