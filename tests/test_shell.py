"""The shell in a real terminal: a pty with the program in it, and pyte as the terminal, on all five transports."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from protocols import TRANSPORTS
from protocols.processes import Server, serving
from sequence_diagrams.session import QUESTIONS
from sequence_diagrams.terminal import PATIENCE_S, Terminal
from shared.client.shell import text
from shared.client.shell.commands import COMMANDS
from shared.client.shell.markdown import MAX_BLOCK_CHARS, Blocks
from shared.client.shell.paint import Paint
from shared.client.shell.tally import percentile
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import WORDS, Backstage, MakeServers, Servers

CTRL_C, CTRL_D, UP, TAB, ALT_ENTER = "\x03", "\x04", "\x1b[A", "\t", "\x1b\r"
QUIET = r"{word} · .*\d+ chunks?$|{word} · whole reply after .*$"


Open = Callable[..., Terminal]


def ports(servers: Mapping[str, Server]) -> dict[str, str]:
    return {f"{word.upper()}_PORT": server.address.rpartition(":")[2] for word, server in servers.items()}


@pytest.fixture
def env(servers: Servers, tmp_path: Path) -> dict[str, str]:
    """The settings of a shell that finds all five servers and keeps its history to itself."""
    servers.start()
    return {**ports(servers), "XDG_STATE_HOME": str(tmp_path / "state"), "NO_PROXY": "*"}


@pytest.fixture
def shell(env: dict[str, str], tmp_path: Path) -> Iterator[Open]:
    """``shell(word, …)``: a shell in a terminal, ready to type; ended at the end."""
    opened: list[Terminal] = []

    def open_one(
        word: str, *arguments: str, more: Mapping[str, str] | None = None, ready: str = "", **options: object
    ) -> Terminal:
        terminal = Terminal(word, {**env, **(more or {})}, *arguments, cwd=tmp_path, **options)  # type: ignore[arg-type]
        opened.append(terminal)
        terminal.wait(ready or rf"^{re.escape(TRANSPORTS[word].title)} at .* · offline-1 \(offline\)")
        return terminal

    yield open_one
    for terminal in opened:
        terminal.close()


def quiet(word: str) -> str:
    return QUIET.format(word=word)


def composed(said: str) -> str:
    """As pyte shows it: a letter and its marks are one (UAX 15)."""
    return unicodedata.normalize("NFC", said)


def session_of(terminal: Terminal) -> str:
    terminal.do("/info\r", r"^session +[0-9a-f-]{36}$")
    return str(re.findall(r"^session +([0-9a-f-]{36})$", terminal.text, re.MULTILINE)[-1])


# -- conversations ---------------------------------------------------------------------------------------------------------


def test_every_command(shell: Open, word: str, tmp_path: Path, servers: Servers) -> None:
    """One session in which everything is typed once, on each transport."""
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    terminal = shell(word, more={"BROWSER": str(browser)})
    terminal.do("My name is Ada.\r", quiet(word))
    assert "Noted: your name is Ada." in terminal.text
    terminal.do("What is my name?\r", quiet(word))
    assert "Your name is Ada." in terminal.text

    terminal.do("/help\r", r"^/quit +leave \(Ctrl-D\)$")
    assert all(re.search(rf"^/{name}\b", terminal.text, re.MULTILINE) for name in COMMANDS)
    terminal.do("/help stats\r", r"nearest-rank")
    terminal.do("/stast\r", r"did you mean /stats\?")
    first = session_of(terminal)
    terminal.wait(r"^messages +4 \(2 yours, 2 its\)$")
    terminal.do("/history\r", r"^❯ My name is Ada\.$")
    terminal.do("/new\r", r"^session [0-9a-f-]{36}$")
    second = session_of(terminal)
    assert second != first
    terminal.do("/sessions\r", rf"^▸ +\d+ +{second[:8]} ")
    terminal.wait(rf"^   \d+ +{first[:8]} +4 ")
    number = re.findall(rf"^   (\d+) +{first[:8]} +4 ", terminal.text, re.MULTILINE)[-1]
    terminal.do(f"/use {number}\r", rf"^session {first}, 4 messages")
    terminal.do(f"/use {second[:10]}\r", rf"^session {second}, 0 messages")
    terminal.do("/use ffffffffffff\r", r"^No session begins with ffffffffffff")
    terminal.do(f"/use {first}\r", rf"^session {first}, 4 messages")

    terminal.do("/image a red bridge --size 64x48 --out bridge.png\r", r"^bridge\.png +64x48, ")
    with Image.open(tmp_path / "bridge.png") as picture:
        assert picture.size == (64, 48)
    assert "▀▀▀▀" in terminal.text
    terminal.do("/image\r", r"A picture of what\?")
    terminal.do("/image x --size big\r", r"A size is WIDTHxHEIGHT")

    terminal.do("/stop\r", r"^nothing is running$")
    terminal.do("/stats\r", rf"^current session: {first[:8]}, 6 messages$")
    terminal.wait(r"^messages sent +3$")
    terminal.wait(r"^turns done +3$")
    terminal.wait(r"^first token, p50 / p99 +[\d.]+ m?s / [\d.]+ m?s")
    terminal.wait(r"^sessions made +2$")
    terminal.do("/server\r", r"^open now +\d+ streams")
    terminal.do("/health\r", r"^status +ok$")
    terminal.do("/ping\r", rf"^5 round trips over {word}: ")

    if TRANSPORTS[word].scheme == "http":
        terminal.do("/docs\r", r"opened http://.*/docs$")
        terminal.do("/demo\r", r"opened http://.*/demo$")
        assert opened.read_text().split() == [f"http://{servers[word].address}{path}" for path in ("/docs", "/demo")]
    else:
        terminal.do("/docs\r", r"grpcurl -plaintext")
        assert "chat.ChatService" in terminal.text
        terminal.do("/demo\r", r"grpcurl -plaintext")

    if TRANSPORTS[word].holds:
        terminal.do("/connect\r", r"^connected already$")
        terminal.do("/disconnect\r", r"^disconnected; ")
        terminal.wait(rf" {word} ○ ❯")
        terminal.do("/disconnect\r", r"^not connected$")
        terminal.do("/connect\r", r"^connected to .* in ")
        terminal.do("/cut\r", r"^── cut on purpose ──$")
    else:
        terminal.do("/connect\r", rf"^{word} holds no connection")
        terminal.do("/disconnect\r", rf"^{word} holds no connection")
        terminal.do("/cut\r", r"^nothing to cut")
    terminal.do("Still there?\r", quiet(word))

    terminal.do("/reset\r", r"Empty session .* of its 8 messages\? \[y/N\]")
    terminal.do("n\r", r"\? n$")
    terminal.do("/reset\r", r"Empty session .* of its 8 messages\? \[y/N\]")
    terminal.do("y\r", r"^emptied$")
    terminal.do("/delete\r", r"Delete session .*\? \[y/N\]")
    terminal.do("yes\r", r"^deleted; ")
    terminal.wait(rf"^new {word} ● ❯")
    assert "someone else" not in terminal.text
    terminal.type("/clear\r")
    while "deleted" in "\n".join(terminal.screen.display):
        assert terminal.read()
    terminal.type("/quit\r")
    assert terminal.left() == 0
    assert "Traceback" not in terminal.raw


@pytest.mark.parametrize("word", ["rest", "grpc"])
def test_the_reply_is_all_there(shell: Open, word: str) -> None:
    """Rendered, the code keeps its indentation; with --plain every line is as the model said it."""
    question = "Tell me about code."
    said = text.visible("".join(reply_tokens([ContextMessage("user", question)])))
    rendered = shell(word, columns=160, rows=60)
    rendered.do(f"{question}\r", quiet(word))
    code = said.partition("```python\n")[2].partition("\n```")[0].split("\n")
    rows = rendered.rows
    at = rows.index("```python")
    assert rows[at + 1 : at + 1 + len(code)] == code
    assert rows[at + 1 + len(code)] == "```"
    assert rows.count("```python") == 1

    plain = shell(word, "--plain", columns=160, rows=60)
    plain.do(f"{question}\r", quiet(word))
    rows = plain.text.split("\n")
    lines = said.rstrip("\n").split("\n")
    at = rows.index(f"❯ {question}") + 1
    assert rows[at : at + len(lines)] == [composed(line.rstrip()) for line in lines]


def test_the_session_in_the_readme_is_one(word: str) -> None:
    """What the page shows was played (``python -m sequence_diagrams.pages``): its replies are the model's, its ends are whole."""
    page = Path(__file__).parent.parent / "protocols" / TRANSPORTS[word].folder / "README.md"
    (shown,) = re.findall(
        r"<!-- made: session -->\n```text\n(.*?)```\n<!-- end -->", page.read_text("utf-8"), re.DOTALL
    )
    assert shown.startswith(f"$ python -m protocols chat {word}\n{TRANSPORTS[word].title} at ")
    assert re.findall(r"^❯ (.*)$", shown, re.MULTILINE) == list(QUESTIONS)
    said: list[ContextMessage] = []
    for question in QUESTIONS:
        said.append(ContextMessage("user", question))
        said.append(ContextMessage("model", "".join(reply_tokens(said))))
        ends = (said[-1].text.split("\n")[0], said[-1].text.rstrip().split("\n")[-1])
        assert all(composed(re.sub(r"[*_]", "", end)) in shown for end in ends)
    assert len(re.findall(quiet(word), shown, re.MULTILINE)) == len(QUESTIONS)
    assert re.search(
        r"^── lost after seq \d+: .*\n── back after .*nothing twice \(sha256 compared\)$", shown, re.M | re.S
    )


def test_pipes(env: dict[str, str], word: str, tmp_path: Path) -> None:
    """Without a terminal: lines in, the replies exactly as they came on stdout, what goes wrong on stderr and in the status."""
    lines = "My name is Ada.\nWhat is my name?\n/info\n/image a cat --size 32x32 --out cat.png\n/delete --yes\n"
    run = subprocess.run(
        [sys.executable, "-m", "protocols", "chat", word],
        input=lines.encode(),
        capture_output=True,
        env={**os.environ, **env},
        cwd=tmp_path,
        timeout=PATIENCE_S,
        check=False,
    )
    out = run.stdout.decode()
    first = "".join(reply_tokens([ContextMessage("user", "My name is Ada.")]))
    assert run.returncode == 0, run.stderr.decode()
    assert out.startswith(first + "\n")
    assert "Your name is **Ada**." in out
    assert re.search(r"^messages +4 ", out, re.MULTILINE)
    assert "cat.png\n" in out
    assert "\x1b" not in out
    assert (tmp_path / "cat.png").stat().st_size


def test_a_pipe_says_what_failed(env: dict[str, str], tmp_path: Path) -> None:
    def run(word: str, lines: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "protocols", "chat", word],
            input=lines,
            capture_output=True,
            text=True,
            env={**os.environ, **env, **more},
            cwd=tmp_path,
            timeout=PATIENCE_S,
            check=False,
        )

    failed = run("sse", " /fail model_timeout x\n/nope\n/delete\nhello\n")
    assert failed.returncode == 1
    assert "model_timeout: " in failed.stderr
    assert "There is no /nope" in failed.stderr
    assert "Say so with --yes" in failed.stderr
    assert "Hello!" in failed.stdout
    absent = run("rest", "hello\n", REST_PORT="1")
    assert absent.returncode == 2
    assert absent.stderr == "nothing answers at 127.0.0.1:1; start it with: python -m protocols serve rest\n"


# -- what one does while an answer is on its way -----------------------------------------------------------------------------


def test_ctrl_c_at_each_moment(shell: Open, word: str) -> None:
    terminal = shell(word)
    # With something typed it only clears the line; at the empty prompt it asks.
    terminal.do("half a thou", r"❯ half a thou$")
    terminal.do(CTRL_C, rf" {word} ● ❯ a message")
    # Before the first token.
    terminal.do(" /slow 60 early\r", r"waiting for the first token")
    terminal.do(CTRL_C, rf"^stopped, what was said stays · {word} · [\d.]+ m?s$")
    # In the middle of an answer, with something typed that stays.
    terminal.do(" /stall 60 midway\r", r"You asked" if word != "rest" else r"waiting for the first token · \d\.\d s")
    terminal.type("kept")
    terminal.do(CTRL_C, rf"^stopped, what was said stays · {word}")
    terminal.wait(r"❯ kept$")
    terminal.do(CTRL_C, rf" {word} ● ❯ a message")
    # While a question waits.
    terminal.do("/delete\r", r"Delete session .*\[y/N\]")
    terminal.do(CTRL_C, r"turns\? no$")
    # What was said stays in the session, and the next turn is taken.
    terminal.do("And now?\r", quiet(word))
    terminal.do("/history\r", r"^cancelled$")
    # Twice in a row at the prompt: out.
    terminal.do(CTRL_C, r"^Ctrl-C once more leaves$")
    terminal.type(CTRL_C)
    assert terminal.left() == 0
    assert "Traceback" not in terminal.raw


@pytest.mark.parametrize("word", ["rest", "websocket"])
def test_leaving_in_the_middle_says_how_to_come_back(shell: Open, word: str) -> None:
    terminal = shell(word)
    terminal.do(" /stall 60 midway\r", r"You asked" if word != "rest" else r"waiting for the first token · \d\.\d s")
    session = session_of(terminal)
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    assert "goes on at the server for its grace period" in terminal.text
    assert f"python -m protocols chat {word} --session {session}" in terminal.text
    # Whoever comes back sees the question and the answer from its start, wherever.
    other = "sse" if word != "sse" else "grpc"
    again = shell(other, "--session", session, ready=r"You asked")
    again.wait(r"^someone else ❯ /stall 60 midway$")
    again.do("/stop\r", r"^stopped, what was said stays · ")
    again.type(CTRL_D)
    assert again.left() == 0


def test_cut_and_resized_in_the_middle(shell: Open, word: str) -> None:
    terminal = shell(word)
    waiting = r"waiting for the first token · \d\.\d s" if word == "rest" else r"You asked"
    terminal.do(" /stall 2 hold on\r", waiting)
    terminal.do("/cut\r", r"^── lost after seq \d+: .*; trying again ──$")
    terminal.wait(r"^── back after .*, (going on with seq \d+|from its first event) ──$")
    terminal.wait(quiet(word))
    terminal.wait(r"nothing lost, nothing twice \(sha256 compared\)$")
    assert terminal.count(r"^You asked, in turn 1:$") == 1
    assert terminal.count(r"^That is all, over ") == 1
    terminal.do("/stats\r", r"^reconnects +[1-9]")
    terminal.wait(r"^resumes +[1-9]")

    terminal.do(" /stall 2 shrink\r", r"waiting for the first token" if word == "rest" else r"You asked, in turn 2")
    for count, (columns, rows) in enumerate(((60, 20), (140, 12), (45, 40), (120, 30)), 1):
        terminal.resize(columns, rows)
        terminal.type("x")
        terminal.wait(rf"❯ x{{{count}}}$")
    terminal.wait(quiet(word), 2)
    assert terminal.count(r"^That is all, over ") == 2
    # Not in the middle of a frame.
    terminal.wait(r" ❯ xxxx$")
    assert terminal.count(r" ❯ x") == 1
    assert "Traceback" not in terminal.raw


def test_switch_in_the_middle(shell: Open) -> None:
    """One answer over all five, each seam shown, each event once."""
    terminal = shell("ndjson", columns=150)
    terminal.do(" /stall 4 over all of them\r", r"You asked")
    ways = ["ndjson", "grpc", "rest", "websocket", "sse"]
    for before, after in pairwise(ways):
        terminal.do(f"/switch {after}\r", rf"^── {before} → {after}: the same turn goes on, after seq \d+ ──$")
        terminal.wait(rf" {after} \S ❯")
    terminal.wait(r"^" + " → ".join(ways) + r" · first token .* chunks$")
    terminal.wait(r"^events ndjson 1–\d+, .*nothing lost, nothing twice \(sha256 compared\)$")
    assert terminal.count(r"^You asked, in turn 1:$") == 1
    assert terminal.count(r"^That is all, over ") == 1
    terminal.do("/switch grpc\r", r"^now over gRPC at .*, the same session$")
    terminal.do("/switch tin\r", r"^To which one\? /switch rest, ndjson, sse, websocket, grpc$")
    terminal.do("And what was that?\r", quiet("grpc"))
    terminal.do("/stats\r", r"^this client +ndjson .*grpc .*rest .*websocket .*sse$")


def test_switch_away_from_a_reply_that_is_waited_for(shell: Open) -> None:
    """Plain REST has said nothing yet; the key of the request finds the turn."""
    terminal = shell("rest")
    terminal.do(" /stall 2 no patience\r", r"waiting for the first token · \d\.\d s")
    terminal.do("/switch websocket\r", r"^── rest → websocket: the same turn goes on, from its first event ──$")
    terminal.wait(r"^rest → websocket · .* chunks$")
    assert terminal.count(r"^That is all, over ") == 1


def test_nothing_blocks(shell: Open) -> None:
    """Typing while an answer streams; commands at once; messages one after the other."""
    terminal = shell("sse")
    terminal.do(" /stall 2 slowly\r", r"You asked")
    terminal.do("/ping\r", r"^5 round trips over sse")
    terminal.do("second\r", r"^next ❯ second$")
    terminal.do("third", r"❯ third$")
    terminal.wait(quiet("sse"), 2)
    assert terminal.count(r"^❯ second$") == 1
    terminal.do("\r", quiet("sse"))
    assert terminal.count(r"^❯ third$") == 1


def test_new_and_use_in_the_middle(shell: Open) -> None:
    terminal = shell("grpc")
    terminal.do(" /stall 60 go on alone\r", r"You asked")
    first = session_of(terminal)
    terminal.do("/new\r", rf"the answer in {first[:8]} goes on at the server")
    terminal.do("Meanwhile here\r", quiet("grpc"))
    terminal.do("/sessions\r", rf"{first[:8]} .*an answer is running")
    terminal.do(f"/use {first[:8]}\r", r"^❯ /stall 60 go on alone$")
    terminal.do("/reset\r", r"\[y/N\]")
    terminal.do("y\r", r"turn_in_progress: .*\(/stop stops it\)")
    terminal.do("/stop\r", r"^stopped, what was said stays · grpc")


# -- the terminal itself -------------------------------------------------------------------------------------------------------


def test_line_editing(shell: Open, env: dict[str, str]) -> None:
    terminal = shell("sse")
    terminal.do("/sw", r"^ +switch +the same session over")
    terminal.do(TAB, r"❯ /switch$")
    terminal.do(" ", r"^ +websocket +WebSocket")
    terminal.type("r")
    while "WebSocket" in "\n".join(terminal.screen.display):
        assert terminal.read()
    terminal.do(TAB, r"❯ /switch rest")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do("one" + ALT_ENTER + "two\\\r  three\r", quiet("sse"))
    terminal.wait(r"^❯ one\n  two\n    three$")
    session = session_of(terminal)
    terminal.do("/use ", rf"{session[:8]} +2 messages")
    terminal.do(CTRL_C, r" sse ● ❯ a message")
    terminal.do("/delete\r", r"\[y/N\]")
    terminal.do("no\r", r"turns\? no$")
    terminal.type(CTRL_D)
    assert terminal.left() == 0

    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    assert history.stat().st_mode & 0o777 == 0o600
    again = shell("grpc")
    # An answer to a question is no line.
    again.do(UP, r"❯ /delete$")
    again.do(UP * 2, r"❯ one$")


def test_history_that_others_could_read_is_closed_to_them(shell: Open, env: dict[str, str]) -> None:
    history = Path(env["XDG_STATE_HOME"]) / "genai-protocols" / "shell_history"
    history.parent.mkdir(parents=True)
    history.write_text("")
    history.chmod(0o644)
    shell("rest")
    assert history.stat().st_mode & 0o777 == 0o600


def test_controls_are_shown_and_never_obeyed(shell: Open) -> None:
    """A title, a bell, a cleared screen: said by the user, repeated by the model, seen by both as signs."""
    terminal = shell("sse")
    hostile = "say \x1b]0;owned\x07 \x1b[2J \x9b31m ok"
    terminal.do(f"\x1b[200~{hostile}\x1b[201~\r", quiet("sse"))
    assert terminal.count(r"say ␛\]0;owned␇ ␛\[2J \ufffd31m ok") == 2
    assert terminal.screen.title == ""
    written = terminal.raw.partition("sse ● ❯")[2]
    assert "\x1b]0;" not in written
    assert "\x07" not in written
    assert "\x9b" not in written


@pytest.mark.parametrize(
    ("da1", "kitty", "drawn"),
    [("\x1b[?62;4c", False, "\x1bP"), ("\x1b[?6c", True, "\U0010eeee"), ("\x1b[?6c", False, "▀")],
    ids=["sixel", "kitty", "half-blocks"],
)
def test_pictures_as_the_terminal_can(shell: Open, tmp_path: Path, da1: str, kitty: bool, drawn: str) -> None:
    terminal = shell("sse", da1=da1, kitty=kitty)
    terminal.do("/image a lighthouse --size 128x96\r", r"^a-lighthouse\.png +128x96, ")
    assert drawn in terminal.raw
    assert ("\x1b_Ga=p" in terminal.raw or "U=1" in terminal.raw) == kitty
    terminal.do("/image a lighthouse --size 64x64\r", r"^a-lighthouse-2\.png +64x64, ")
    # The answers of the terminal went to who asked, not to the line.
    terminal.wait(r" sse ● ❯ a message")
    assert (tmp_path / "a-lighthouse-2.png").read_bytes().startswith(base64.b64decode("iVBORw0K"))


# -- others, and servers that come and go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["websocket", "grpc"])
def test_two_shells_in_one_session(shell: Open, word: str) -> None:
    ada = shell(word)
    ada.do("My name is Ada.\r", quiet(word))
    session = session_of(ada)
    bob = shell(word, "--session", session, ready=rf"^{session[:8]} {word} ● ❯")
    bob.wait(rf"^session {session}, 2 messages")
    ada.do("thinking", r"❯ thinking$")
    bob.wait(r"^someone else is typing …$")
    ada.type("\x15")
    while "typing" in "\n".join(bob.screen.display):
        assert bob.read()
    ada.do(" /stall 2 for both\r", r"You asked, in turn 2")
    bob.wait(r"^someone else ❯ /stall 2 for both$")
    bob.wait(r"You asked, in turn 2")
    # Their answer is not ours to stop with Ctrl-C; what we say comes after it.
    bob.do(CTRL_C, r"^Ctrl-C once more leaves; /stop would stop it for everyone$")
    bob.do("What is my name?\r", r"^next ❯ What is my name\?$")
    bob.wait(r"Your name is Ada\.")
    ada.wait(r"^someone else ❯ What is my name\?$")
    ada.wait(r"Your name is Ada\.")
    # Someone on a transport that holds nothing is heard, too.
    carl = shell("rest", "--session", session, ready=rf"^{session[:8]} rest ● ❯")
    carl.do("Hello from far away.\r", quiet("rest"))
    for terminal in (ada, bob):
        terminal.wait(r"^someone else ❯ Hello from far away\.$")
        terminal.wait(r"I am turn 4\.$")
    carl.do("/reset --yes\r", r"^emptied$")
    ada.wait(r"^someone else emptied this session$")


def test_no_server_is_one_line(shell: Open, word: str) -> None:
    terminal = shell(word, more={f"{word.upper()}_PORT": "1"}, ready=rf"^new {word} ● ❯")
    line = rf"^nothing answers at 127\.0\.0\.1:1; start it with: python -m protocols serve {word}$"
    terminal.wait(line)
    terminal.do("hello?\r", line)
    terminal.do("/server\r", line)
    other = "sse" if word != "sse" else "rest"
    terminal.do(f"/switch {other}\r", rf"^now over .*{TRANSPORTS[other].title}")
    terminal.do(f"/switch {word}\r", line)
    terminal.do("Then here.\r", quiet(other))


def test_a_server_dies_and_comes_back(
    shell: Open, word: str, backstage: Backstage, make_servers: MakeServers, tmp_path: Path
) -> None:
    env = make_servers(store=tmp_path / "chat.db", LEASE_S="0.3").env

    async def start(port: int) -> tuple[Server, AsyncExitStack]:
        stack = AsyncExitStack()
        return await stack.enter_async_context(serving(word, port=port, env=env)), stack

    server, stack = backstage.run(start(0))
    port = int(server.address.rpartition(":")[2])
    terminal = shell(word, more={f"{word.upper()}_PORT": str(port)})
    terminal.do("My name is Ada.\r", quiet(word))
    waiting = r"waiting for the first token · \d\.\d s" if word == "rest" else r"You asked, in turn 2"
    terminal.do(" /stall 60 then die\r", waiting)
    server.process.send_signal(signal.SIGKILL)
    terminal.wait(r"^── lost after seq \d+: .*; trying again ──$")
    backstage.run(stack.aclose())
    server, stack = backstage.run(start(port))
    # What was said is there, and nothing is generated twice behind one's back.
    terminal.wait(r"^interrupted by the server, what was said stays · ")
    terminal.do("What is my name?\r", quiet(word))
    assert "Your name is Ada." in terminal.text
    # While nobody is there, each try is one line.
    server.process.send_signal(signal.SIGKILL)
    backstage.run(stack.aclose())
    if TRANSPORTS[word].holds:
        terminal.wait(r"^── connection lost: ")
    terminal.do("Anyone?\r", rf"^nothing answers at .*python -m protocols serve {word}$")
    server, stack = backstage.run(start(port))
    if TRANSPORTS[word].holds:
        terminal.wait(r"^── connected again after ")
    terminal.do("And now?\r", quiet(word))
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    backstage.run(stack.aclose())
    assert "Traceback" not in terminal.raw


# -- the parts ---------------------------------------------------------------------------------------------------------------


PIECES = st.lists(
    st.sampled_from(
        [
            "word", "other", " ", "  ", "\n", "\n\n", "# ", "## ", "- ", "1. ", "2. ", "> ", "```", "```py\n", "\n```\n", "    ",
            "\t", "`", "*", "**", "_", "~~", "[a](b)", "![c](d)", "<e>", "[f]: g\n", "|", "\n--|--\n", "h | i\n", "---\n", "===\n",
            "é", "👩‍👩‍👧‍👦", "\r\n", "\r", "\u2028", "\x1b[1m", ".", ":", "x" * 50,
        ]
    ),
    max_size=60,
)  # fmt: skip
LETTER = re.compile(r"[^\W\d_]")
SGR = re.compile(r"\x1b\[[\d;]*m")


def painted(source: str, cuts: list[int], paint: Paint) -> list[str]:
    blocks, rows, start = Blocks(plain=paint.plain), [], 0
    for cut in [*sorted(cut % (len(source) + 1) for cut in cuts), len(source)]:
        blocks.feed(source[start:cut])
        start = cut
        while done := blocks.take():
            rows += [row for block in done for row in paint.block(block)]
        paint.tail(blocks.tail, 40)
    while done := blocks.take(end=True):
        rows += [row for block in done for row in paint.block(block)]
    return rows


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([20, 60, 120]))
@settings(max_examples=150, deadline=None)
def test_no_letter_is_lost_however_it_comes(pieces: list[str], cuts: list[int], columns: int) -> None:
    source = "".join(pieces)
    rows = painted(source, cuts, Paint(lambda: columns, plain=False))
    shown = SGR.sub("", "\n".join(rows))
    assert "\x1b" not in shown
    assert "".join(LETTER.findall(shown)) == "".join(LETTER.findall(text.visible(source)))


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=100, deadline=None)
def test_plain_is_plain(pieces: list[str], cuts: list[int]) -> None:
    source = "".join(pieces)
    rows = painted(source, cuts, Paint(lambda: 80, plain=True))
    assert "\n".join(rows) == text.visible(source).removesuffix("\n")


def test_long_blocks_come_in_pieces() -> None:
    code = "\n".join(f"    line {i}" for i in range(600))
    source = f"Look:\n\n```python\n{code}\n```\n\n" + "".join(f"- item {i}\n" for i in range(600)) + "\nend " * 3_000
    assert len(source) > 5 * MAX_BLOCK_CHARS
    rows = [
        SGR.sub("", row) for row in painted(source, list(range(0, len(source), 997)), Paint(lambda: 80, plain=False))
    ]
    assert [row for row in rows if row.startswith("    line")] == code.split("\n")
    assert rows.count("```python") == 1
    assert rows.count("```") == 1
    assert [row for row in rows if row.startswith(" • ")] == [f" • item {i}" for i in range(600)]
    assert sum(row.split().count("end") for row in rows) == 3_000


def test_percentiles_are_nearest_rank() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(
    ("shown", "want"),
    [
        (text.duration(0.44), "0.4 ms"),
        (text.duration(153), "153 ms"),
        (text.duration(3_400), "3.4 s"),
        (text.duration(125_000), "2 min 05 s"),
        (text.size(999), "999 B"),
        (text.size(2_400_000), "2.4 MB"),
        (text.line("a\r\nb\x1b[2Jc", 0), "a␤b␛[2Jc"),
        (text.line("0123456789", 5), "0123…"),
        (text.plural(1, "message"), "1 message"),
    ],
)
def test_words(shown: str, want: str) -> None:
    assert shown == want


def test_the_table_names_every_command() -> None:
    wanted = (
        "help new sessions use info history reset delete clear image stop switch cut stats server health ping docs demo"
    )
    assert set(COMMANDS) == {*wanted.split(), "connect", "disconnect", "quit"}
    assert set(WORDS) == set(TRANSPORTS)
