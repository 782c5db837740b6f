"""What a user types: stage directions, short names, a message asked again, a session written to a file."""

from __future__ import annotations

import json
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from shared.stage_directions import DIRECTIONS
from shared.transports import word_named
from tests.conftest import Backstage, MakeServers
from tests.shell.helpers import CTRL_D, Open, quiet, session_of


def test_stage_directions_work_as_printed_and_stand_in_help(shell: Open) -> None:
    terminal = shell("sse")
    terminal.do("/tokens 7 hello\r", r"sse · .*7 chunks$")
    terminal.do("/fail nosuch hello\r", r"^/fail takes one of model_.*")
    terminal.wait(r"not nosuch\.$")
    terminal.do("/fail model_timeout hello\r", r"model_timeout: ")
    terminal.do("/help\r", r"^/fail-first CODE +the reply fails with CODE before the first token$")
    assert all(re.search(rf"^/{name} ", terminal.text, re.MULTILINE) for name in DIRECTIONS)
    terminal.do("/help stall\r", r"^with the offline model: the reply is silent for S seconds")
    terminal.do("/help drop\r", r"^/drop MESSAGE$")
    terminal.do("/image /fail nosuch a bridge\r", r"^/image /fail nosuch a bridge$")
    terminal.wait(r"not nosuch\.$", 2)
    # A direction without a value is one only where a blank follows it.
    terminal.do("/drop.\r", r"^There is no /drop\.")
    terminal.do(" /drop. hello\r", quiet("sse"))


def test_short_names_of_transports(shell: Open) -> None:
    terminal = shell("sse")
    terminal.do("/switch ws\r", r"^now over WebSocket at ")
    terminal.do("/switch g\r", r"^now over gRPC at ")
    terminal.do("/switch nothing\r", r"^There is no transport nothing; type /switch and one of rest, ndjson, ")
    meant = {
        "ws": "websocket",
        "WS": "websocket",
        "streamable_http": "ndjson",
        "s": "sse",
        "r": "rest",
        "str": "ndjson",
        "HTTP": "rest",
        "": None,
        "x": None,
    }
    assert {name: word_named(name, TRANSPORTS) for name in meant} == meant


def test_a_session_is_written_to_a_file(shell: Open, tmp_path: Path) -> None:
    terminal = shell("grpc")
    terminal.do("/export\r", r"You are in no session yet")
    terminal.do("My name is Ada.\r", quiet("grpc"))
    session = session_of(terminal)
    terminal.do("/export\r", rf"^session-{session[:8]}\.md +2 messages$")
    written = (tmp_path / f"session-{session[:8]}.md").read_text(encoding="utf-8")
    assert written.startswith(f"# My name is Ada.\n\nSession {session}, begun ")
    assert "\n## You\n\nMy name is Ada.\n\n## Model\n\nNoted: your name is **Ada**." in written
    terminal.do("/export talk.json\r", r"^talk\.json +2 messages$")
    found = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert found["session"]["title"] == "My name is Ada."
    assert [message["role"] for message in found["messages"]] == ["user", "model"]
    terminal.do("/export talk.json\r", r"Write over talk\.json\? \[y/N\]")
    terminal.do("n\r", r"talk\.json\? n$")
    # Enter is the answer in capitals, No.
    terminal.do("/export talk.json\r", r"Write over talk\.json\? \[y/N\]")
    terminal.do("\r", r"^nothing was changed$")
    (tmp_path / "pictures").mkdir()
    for name, why in (
        ("no/talk.md", r"^There is no folder .*/no;\s+make\s+it\s+first\.$"),
        ("pictures", r"^pictures is a folder; give the name of a file in it\.$"),
        ("~nobody-here/talk.md", r"^There is no folder .*/~nobody-here;\s+make\s+it\s+first\.$"),
        ("t" * 300, r"^t+… cannot be the name of a file \(File name too long\); give another name\.$"),
    ):
        for command in ("/export", "/image a bridge --out"):
            terminal.do(f"{command} {name}\r", why)
    terminal.do("/image a bridge --size\r", r"^--size needs a value: ")
    # The beginning of an id is enough to come back, and /sessions says how each session begins.
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    again = shell("rest", "--session", session[:8], ready=rf"^{session[:8]} rest ● ❯")
    again.do("/sessions\r", rf"^▸ +\d+ +{session[:8]} +My name is Ada\. +2 ")


def test_what_a_killed_server_did_not_generate_is_asked_again(
    shell: Open, backstage: Backstage, make_servers: MakeServers, tmp_path: Path
) -> None:
    env = make_servers(store=tmp_path / "chat.db", LEASE_S="0.3").env

    async def start(port: int) -> tuple[Server, AsyncExitStack]:
        stack = AsyncExitStack()
        return await stack.enter_async_context(serving("ndjson", port=port, env=env)), stack

    port = free_port()
    server, stack = backstage.run(start(port))
    terminal = shell("ndjson", more={"NDJSON_PORT": str(port)})
    terminal.do("/retry\r", r"^nothing to ask again: this session has no message yet$")
    terminal.do("/stall 60 then die\r", r"You asked, in turn 1")
    server.process.send_signal(signal.SIGKILL)
    terminal.wait(r"^── lost after seq \d+: ")
    backstage.run(stack.aclose())
    server, stack = backstage.run(start(port))
    terminal.wait(r"the rest was not generated; /retry asks again · ")
    terminal.do("/retry\r", r"You asked, in turn 2")
    terminal.do("/stop\r", r"^stopped, partial answer kept")
    # In a session that was entered, its last message is asked again.
    session = session_of(terminal)
    terminal.do("/new\r", r"^session [0-9a-f-]{36}$")
    terminal.do(f"/use {session[:8]}\r", rf"^session {session}, “/stall 60 then die”, 4 messages")
    terminal.do("/retry\r", r"You asked, in turn 3")
    terminal.do("/stop\r", r"^stopped, partial answer kept")
    terminal.type(CTRL_D)
    assert terminal.left() == 0
    backstage.run(stack.aclose())
