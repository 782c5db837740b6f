"""Other users of the session, and servers that end and come back."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from tests.conftest import Backstage, MakeServers
from tests.shell.helpers import CTRL_C, CTRL_D, Open, quiet, session_of


@pytest.mark.parametrize("word", ["websocket", "grpc"])
def test_two_shells_in_one_session(shell: Open, word: str) -> None:
    ada = shell(word)
    ada.do("My name is Ada.\r", quiet(word))
    session = session_of(ada)
    bob = shell(word, "--session", session, ready=rf"^{session[:8]} {word} ● ❯")
    bob.wait(rf"^session {session}, “My name is Ada\.”, 2 messages")
    ada.do("thinking", r"❯ thinking$")
    bob.wait(r"^someone else is typing …$")
    ada.type("\x15")
    while "typing" in "\n".join(bob.screen.display):
        assert bob.read()
    ada.do(" /stall 2 for both\r", r"You asked, in turn 2")
    bob.wait(r"^someone else ❯ /stall 2 for both$")
    bob.wait(r"You asked, in turn 2")
    # Ctrl-C does not stop another user's answer. This user's message is sent after that answer.
    bob.do(CTRL_C, r"^Ctrl-C once more within 2 s leaves; /stop would stop the answer for everyone$")
    bob.do("What is my name?\r", r"^next ❯ What is my name\?$")
    bob.wait(r"Your name is Ada\.")
    ada.wait(r"^someone else ❯ What is my name\?$")
    ada.wait(r"Your name is Ada\.")
    # A message over a transport without a held connection is shown, too.
    carl = shell("rest", "--session", session, ready=rf"^{session[:8]} rest ● ❯")
    carl.do("Hello from far away.\r", quiet("rest"))
    for terminal in (ada, bob):
        terminal.wait(r"^someone else ❯ Hello from far away\.$")
        terminal.wait(r"I am turn 4\.$")
    carl.do("/reset --yes\r", r"^emptied$")
    ada.wait(r"^someone else emptied this session$")


def test_an_answer_that_is_not_shown_can_be_stopped(shell: Open) -> None:
    """A shell without a held connection does not see what another shell starts. It is told, and /stop stops it."""
    ada = shell("sse")
    ada.do("hello\r", quiet("sse"))
    session = session_of(ada)
    bob = shell("rest", "--session", session, ready=rf"^{session[:8]} rest ● ❯")
    ada.do("/stall 60 wait\r", r"You asked")
    bob.do("hello?\r", r"^turn_in_progress: .*\(/stop stops it\)$")
    bob.do("/stop\r", r"^stopped an answer that was not shown here; /history shows what was kept of it$")
    ada.wait(r"^stopped, partial answer kept · sse")
    bob.do("/stop\r", r"^nothing is running$")


async def started(word: str, port: int, env: Mapping[str, str]) -> tuple[Server, AsyncExitStack]:
    """A server on this port, and the stack that stops it."""
    stack = AsyncExitStack()
    return await stack.enter_async_context(serving(word, port=port, env=env)), stack


@pytest.mark.parametrize("word", ["websocket", "grpc"])
def test_an_orderly_restart_is_noticed(
    shell: Open, word: str, backstage: Backstage, make_servers: MakeServers, tmp_path: Path
) -> None:
    """A server that stops says so on the held connection. The shell comes back to the next server and sees what others ask."""
    env = make_servers(store=tmp_path / "chat.db").env

    port = free_port()
    server, stack = backstage.run(started(word, port, env))
    terminal = shell(word, more={f"{word.upper()}_PORT": str(port)})
    terminal.do("hello\r", quiet(word))
    session = session_of(terminal)
    server.process.send_signal(signal.SIGTERM)
    terminal.wait(r"^── connection lost: [^.;]*; [^.;]*; trying again ──$")
    terminal.wait(rf" {word} × ❯")
    backstage.run(stack.aclose())
    server, stack = backstage.run(started(word, port, env))
    terminal.wait(r"^── connected again after ")
    other = shell(word, "--session", session, more={f"{word.upper()}_PORT": str(port)}, ready=rf"^{session[:8]} ")
    other.do("Who reads this?\r", quiet(word))
    terminal.wait(r"^someone else ❯ Who reads this\?$")
    for each in (terminal, other):
        each.type(CTRL_D)
        assert each.left() == 0
        assert f"--port {port}" not in each.text
    backstage.run(stack.aclose())


def test_no_server_is_one_line(shell: Open, word: str) -> None:
    terminal = shell(word, more={f"{word.upper()}_PORT": "1"}, ready=rf"^new {word} × ❯")
    line = rf"^nothing answers at 127\.0\.0\.1:1; start it with: python -m protocols serve {word}$"
    terminal.wait(line)
    terminal.do("hello?\r", line)
    terminal.wait(r"^then /retry asks again$")
    terminal.do("/server\r", line)
    other = "sse" if word != "sse" else "rest"
    terminal.do(f"/switch {other}\r", rf"^now over .*{TRANSPORTS[other].title}")
    terminal.do(f"/switch {word}\r", line)
    terminal.do("Then here.\r", quiet(other))


def test_a_server_dies_and_comes_back(
    shell: Open, word: str, backstage: Backstage, make_servers: MakeServers, tmp_path: Path
) -> None:
    env = make_servers(store=tmp_path / "chat.db", LEASE_S="0.3").env

    port = free_port()
    server, stack = backstage.run(started(word, port, env))
    terminal = shell(word, more={f"{word.upper()}_PORT": str(port)})
    terminal.do("My name is Ada.\r", quiet(word))
    waiting = r"waiting for the whole reply · \d\.\d s" if word == "rest" else r"You asked, in turn 2"
    terminal.do(" /stall 60 then die\r", waiting)
    server.process.send_signal(signal.SIGKILL)
    terminal.wait(r"^── lost (after seq \d+|before the first event): .*; trying again ──$")
    backstage.run(stack.aclose())
    server, stack = backstage.run(started(word, port, env))
    # The text so far is there, and nothing is generated twice.
    terminal.wait(r"^interrupted by the server, partial answer kept; the rest was not generated; /retry asks again · ")
    terminal.do("What is my name?\r", quiet(word))
    assert "Your name is Ada." in terminal.text
    # While the server is down, each try is one line.
    server.process.send_signal(signal.SIGKILL)
    backstage.run(stack.aclose())
    if TRANSPORTS[word].holds:
        terminal.wait(r"^── connection lost: ")
    terminal.do("Anyone?\r", rf"^nothing answers at .*python -m protocols serve {word}$")
    server, stack = backstage.run(started(word, port, env))
    if TRANSPORTS[word].holds:
        terminal.wait(r"^── connected again after ")
    terminal.do("And now?\r", quiet(word))
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    backstage.run(stack.aclose())
    assert "Traceback" not in terminal.raw
