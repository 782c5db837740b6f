"""Conversations in the shell: every command, whole replies, and pipes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from protocols import TRANSPORTS
from sequence_diagrams.session import QUESTIONS
from sequence_diagrams.terminal import PATIENCE_S
from shared.client import text
from shared.client.shell.commands import COMMANDS
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import Servers
from tests.shell.helpers import Open, composed, quiet, session_of


def test_every_command(shell: Open, word: str, tmp_path: Path, servers: Servers) -> None:
    """One session in which every command is typed once, on each transport."""
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
    terminal.wait(r"^messages +4 \(2 yours, 2 the model's\)$")
    terminal.do("/history\r", r"^❯ My name is Ada\.$")
    terminal.do("/new\r", r"^session [0-9a-f-]{36}$")
    second = session_of(terminal)
    assert second != first
    terminal.do("/sessions\r", rf"^▸ +\d+ +{second[:8]} ")
    terminal.wait(rf"^   \d+ +{first[:8]} +My name is Ada\. +4 ")
    number = re.findall(rf"^   (\d+) +{first[:8]} +My name is Ada\. +4 ", terminal.text, re.MULTILINE)[-1]
    terminal.do(f"/use {number}\r", rf"^session {first}, “My name is Ada\.”, 4 messages")
    terminal.do(f"/use {second[:10]}\r", rf"^session {second}, 0 messages")
    terminal.do("/use ffffffffffff\r", r"session_not_found: No session begins with ffffffffffff")
    terminal.do(f"/use {first}\r", rf"^session {first}, “My name is Ada\.”, 4 messages")

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
    terminal.wait(r"^sessions created +2$")
    terminal.do("/server\r", r"^open now +\d+ streams?, \d+ connections?$")
    terminal.do("/health\r", r"^status +ok$")
    terminal.do("/ping\r", rf"^5 round trips over {TRANSPORTS[word].title}: ")

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

    terminal.do("/reset\r", r"Empty session .* \(8 messages\)\? \[y/N\]")
    terminal.do("n\r", r"\? n$")
    terminal.do("/reset\r", r"Empty session .* \(8 messages\)\? \[y/N\]")
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
    """Rendered code keeps its indentation. With --plain every line is as the model said it."""
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
    """The transcript in the README comes from a run: its replies are the model's, from beginning to end."""
    page = Path(__file__).parents[2] / "protocols" / TRANSPORTS[word].folder / "README.md"
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
        r"^── lost (?:after seq \d+|before the first event): .*\n── back after .*nothing twice \(sha256 compared\)$",
        shown,
        re.M | re.S,
    )


def test_pipes(env: dict[str, str], word: str, tmp_path: Path) -> None:
    """Without a terminal, replies go unchanged to stdout, and failures to stderr and into the exit status."""
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
