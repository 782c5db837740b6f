"""Job control: Ctrl-Z stops a client in a terminal in the middle of an answer, ``fg`` brings it back, and nothing is missing."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from protocols import TRANSPORTS
from sequence_diagrams.terminal import PtyTerminal
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import WORDS, Servers
from tests.shell.helpers import CTRL_D, quiet

CTRL_Z = "\x1a"
STOPPED = r"^\[1\]\+ +Stopped "
# bash says so before it sets the terminal's modes again, and prompts afterwards.
AT_PROMPT = rf"{STOPPED}(.*\n){{1,3}}\$$"
# Line editing, echo, signals and CR as Enter: what a user's shell needs, and what an input line of our own switches off.
MODES = "stty -a | tr ' ;' '\\n\\n' | grep -cxE 'icanon|echo|isig|icrnl|iexten'\r"
ASKED = "/tokens 30 /stall 1 hello"

CUTTING = ("ndjson", "sse", "websocket")

OpenBash = Callable[[], PtyTerminal]


@pytest.fixture
def bash(env: Mapping[str, str], tmp_path: Path) -> Iterator[OpenBash]:
    """``bash()``: a user's shell with job control in a terminal."""
    opened: list[PtyTerminal] = []

    def open_one() -> PtyTerminal:
        program = ("/usr/bin/env", "bash", "--norc", "--noprofile", "--noediting", "-i")
        terminal = PtyTerminal("", {**env, "PS1": "$ ", "HISTFILE": ""}, cwd=tmp_path, program=program)
        opened.append(terminal)
        terminal.wait(r"^\$$")
        return terminal

    yield open_one
    for terminal in opened:
        # The programs that bash has started end with the terminal.
        terminal.close()


def state(pid: int) -> str:
    """The state of a process, as ``ps`` shows it (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_shell_is_stopped_and_comes_back(bash: OpenBash) -> None:
    terminal = bash()
    terminal.do(f"{sys.executable} -m protocols chat {WORDS[0]}\r", r" at .* · offline-1 \(offline\)")
    for word in WORDS:
        if word != WORDS[0]:
            terminal.do(f"/switch {word}\r", rf"^now over .*{re.escape(TRANSPORTS[word].title)}")
        terminal.do(f"{ASKED}\r", r"^❯ /tokens 30")
        terminal.wait(rf" {word} \S ❯ ")
        terminal.do(CTRL_Z, AT_PROMPT)
        terminal.do(MODES, "^5$")
        ended = terminal.count(quiet(word))
        terminal.type("fg\r")
        terminal.wait(quiet(word), ended + 1)
        assert word == "rest" or terminal.count(rf"^{word} · .* 30 chunks$") == 1
    terminal.do("half a li", r"❯ half a li$")
    terminal.do(CTRL_Z, AT_PROMPT)
    terminal.do("fg\r", r"❯ half a li$")
    terminal.do("ne\r", r"^❯ half a line$")
    terminal.wait(quiet(WORDS[-1]), 2)
    terminal.do(CTRL_D, r"^to come back: .*\n\$$")
    terminal.do(MODES, "^5$")
    assert "Traceback" not in terminal.raw


def test_a_shell_that_is_stopped_from_outside_comes_back(bash: OpenBash, tmp_path: Path) -> None:
    """SIGTSTP lets the shell restore the terminal; SIGSTOP does not. After ``bg`` the shell waits for ``fg``."""
    terminal = bash()
    chat = f"sh -c 'echo $$ > pid; exec {sys.executable} -m protocols chat sse'"
    terminal.do(f"{chat}\r", r" at .* · offline-1 \(offline\)")
    for number in (signal.SIGTSTP, signal.SIGSTOP):
        terminal.wait(r" sse \S ❯ ")
        stopped = terminal.count(STOPPED)
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, number)
        terminal.wait(STOPPED, stopped + 1)
        terminal.do("bg; echo continued\r", "^continued$")
        while state(pid) != "T":
            terminal.read()
        answered = terminal.count(quiet("sse"))
        terminal.do("fg\r", r"^sh -c ")
        # Enter is CR: the line is sent only where the shell has set the terminal's modes again.
        terminal.do("hello\r", quiet("sse"))
        assert terminal.count(quiet("sse")) == answered + 1
    terminal.do(CTRL_D, r"^to come back: .*\n\$$")
    terminal.do(MODES, "^5$")


def test_one_message_is_stopped_and_goes_on(bash: OpenBash, servers: Servers, tmp_path: Path) -> None:
    """While a client is stopped, its server cuts the stream of the turn; the clients of REST and gRPC are not cut."""
    terminals, cut = {}, set()
    with httpx.Client() as http:
        for word in WORDS:
            terminal = terminals[word] = bash()
            written = tmp_path / f"{word}.txt"
            terminal.type(f"{sys.executable} -m protocols chat {word} '{ASKED}' > {written}\r")
            while not (running := running_turn(http, servers)) or (word != "rest" and not size(written)):
                terminal.read()
            terminal.do(CTRL_Z, AT_PROMPT)
            answer = http.post(f"http://{servers[word].address}/turns/{running}/cut") if word in CUTTING else None
            # 404: the answer has ended meanwhile.
            if answer is not None and answer.status_code == 204:
                cut.add(word)
    said = "".join(reply_tokens([ContextMessage("user", ASKED)]))
    for word, terminal in terminals.items():
        terminal.do("fg; echo ended $?\r", "^ended 0$")
        assert (tmp_path / f"{word}.txt").read_text() == f"{said}\n", word
        assert terminal.count(r"^\[back after ") == (word in cut), terminal.text


def running_turn(http: httpx.Client, servers: Servers) -> str | None:
    """The running turn of the newest session."""
    sessions = http.get(f"http://{servers['rest'].address}/sessions", params={"limit": 1}).json()["sessions"]
    return next((session["running_turn_id"] for session in sessions), None)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
