"""The command line: one message, one picture, raw events, exit statuses and their one line, the settings' list, the demo."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from PIL import Image
from rich.console import Console

from protocols import TRANSPORTS
from protocols.__main__ import main
from protocols.demo_report import show_runs
from protocols.demo_view import DemoView, TransportRun
from shared.client.cli import absent, come_back
from shared.config import Settings
from shared.events import from_json
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from shared.usage import usage_of
from tests.conftest import FAST, WORDS, Connect, MakeServers, Servers, until

ROOT = Path(__file__).resolve().parents[1]
NO_STREAM = [word for word in WORDS if not TRANSPORTS[word].tokens]


def port_of(servers: Servers, word: str) -> str:
    return servers[word].address.rpartition(":")[2]


class Run(Protocol):
    """Run ``python -m protocols`` with these arguments. Returns the exit status, stdout and stderr."""

    def __call__(self, *arguments: str, stdin: str | bytes = "", **env: str) -> tuple[int, str, str]: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the program in this process, in an empty folder, because starting Python would take most of the time."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: str, stdin: str | bytes = "", **env: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            given = stdin.encode() if isinstance(stdin, str) else stdin
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
            for name, value in env.items():
                patch.setenv(name, value)
            try:
                status = main(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
        written = capfd.readouterr()
        return status, written.out, written.err

    return run_here


def said(*messages: str) -> str:
    """The offline model's reply to the last of these messages, each answered in its turn."""
    history: list[ContextMessage] = []
    for message in messages:
        if history:
            history.append(ContextMessage("model", "".join(reply_tokens(history))))
        history.append(ContextMessage("user", message))
    return "".join(reply_tokens(history))


def test_one_message_prints_the_very_reply(servers: Servers, word: str, run: Run) -> None:
    message = "Show me code that reads a stream of events."
    status, out, err = run("chat", word, "--port", port_of(servers, word), message)
    assert (status, err) == (0, "")
    assert out == said(message).rstrip("\n") + "\n"


def test_a_message_from_stdin_goes_on_in_a_session(servers: Servers, word: str, run: Run) -> None:
    to = ("chat", word, "--port", port_of(servers, word))
    status, out, _ = run(*to, "--json", "My name is Ada.")
    assert status == 0
    session = json.loads(out.splitlines()[0])["session_id"]
    # Lists and prompts show the beginning of an id.
    status, out, _ = run(*to, "--session", session[:8], "-", stdin="What is my name?")
    assert (status, out) == (0, said("My name is Ada.", "What is my name?") + "\n")


def test_json_is_the_raw_events(servers: Servers, word: str, run: Run) -> None:
    status, out, err = run("chat", word, "--port", port_of(servers, word), "--json", "hello")
    assert (status, err) == (0, "")
    if word in NO_STREAM:
        (reply,) = out.splitlines()
        assert json.loads(reply)["text"] == said("hello")
        return
    events = [from_json(line) for line in out.removesuffix("\n").split("\n")]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert "".join(getattr(event, "text", "") for event in events) == said("hello")


def test_as_a_file_and_as_a_module(servers: Servers, word: str, run: Run, tmp_path: Path) -> None:
    folder = TRANSPORTS[word].folder
    for command in ([str(ROOT / "protocols" / folder / "client.py")], ["-m", f"protocols.{folder}.client"]):
        done = subprocess.run(
            [sys.executable, *command, "--port", port_of(servers, word), "hello"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().rstrip("\n") == said("hello").rstrip("\n")


def test_refused(servers: Servers, word: str, run: Run) -> None:
    to = ("chat", word, "--port", port_of(servers, word))
    for arguments, code in (
        (("--session", "0b8f8a0e-0000-4000-8000-000000000000", "hello"), "session_not_found"),
        (("--session", "no-such", "hello"), "session_not_found"),
        (("--session", "", "hello"), "invalid_request"),
        (("   ",), "invalid_request"),
        (("/fail-first model_unavailable hello",), "model_unavailable"),
    ):
        status, out, err = run(*to, *arguments)
        assert (status, out.strip()) == (1, "")
        assert re.fullmatch(rf"{code}: \S.*\n", err), err


def test_a_failure_in_the_middle_keeps_what_was_said(servers: Servers, word: str, run: Run) -> None:
    status, out, err = run("chat", word, "--port", port_of(servers, word), "/fail model_timeout tell me")
    assert status == 1
    assert re.fullmatch(r"model_timeout: \S.*\n", err)
    assert bool(out.strip()) == (word not in NO_STREAM)


def test_a_wrong_key(make_servers: MakeServers, run: Run) -> None:
    locked = make_servers(API_SECRET_KEY="the-real-key")
    for word in ("sse", "grpc"):
        to = ("chat", word, "--port", port_of(locked, word))
        for given, expected in (
            (run(*to, "hello"), 1),
            (run(*to, "--key", "wrong", "hello"), 1),
            (run(*to, "--key", "the-real-key", "hello"), 0),
            (run(*to, "hello", API_SECRET_KEY="the-real-key"), 0),
        ):
            assert given[0] == expected, (word, given)
            assert given[2].startswith("unauthenticated: ") if expected else not given[2], (word, given)
            assert given[2].endswith("or start this client with --key)\n") or not expected


@pytest.fixture
def nobody() -> Iterator[str]:
    """A port where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield str(bound.getsockname()[1])


def test_a_server_that_is_not_there(word: str, nobody: str, run: Run) -> None:
    expected = (
        f"nothing answers at 127.0.0.1:{nobody}; start it with: python -m protocols serve {word} --port {nobody}\n"
    )
    for arguments in (("chat", word, "hello"), ("image", word, "a bridge"), ("chat", word)):
        status, out, err = run(*arguments, "--port", nobody, stdin="hello\n")
        assert (status, out, err) == (2, "", expected)


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "x:y",
        "[::1",
        "user@chat",
        "localhost:",
        ":8002",
        "127.0.0.1:99999",
        "https://",
        "a..b",
        "x\ufffd",
        "n" * 70,
    ],
)
def test_a_host_that_no_url_can_have_is_one_line(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["chat", "sse", "--host", host, "hello"])
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("invalid_request: --host takes a name or an address, with or without :PORT")
    assert line.endswith(f"{host} is none of these.")


def test_another_server_at_the_address_is_one_line(servers: Servers, run: Run) -> None:
    port = port_of(servers, "grpc")
    line = rf"not_our_server: .* is the grpc server, not the sse server; use: python -m protocols chat grpc --port {port}\n"
    for arguments in (("chat", "sse", "hello"), ("image", "sse", "a bridge"), ("chat", "sse")):
        status, out, err = run(*arguments, "--port", port, stdin="hello\n")
        assert (status, out) == (2, "")
        assert re.fullmatch(line, err), err


@pytest.mark.parametrize("key", [" the-real-key\n", "\tthe-real-key "])
def test_blanks_around_a_key_are_dropped(make_servers: MakeServers, run: Run, key: str) -> None:
    locked = make_servers(API_SECRET_KEY="the-real-key")
    for word in ("rest", "websocket", "grpc"):
        to = ("chat", word, "--port", port_of(locked, word))
        for given in (run(*to, "--key", key, "hello"), run(*to, "hello", API_SECRET_KEY=key)):
            assert given == (0, said("hello").rstrip("\n") + "\n", ""), (word, given)


@pytest.mark.parametrize("key", ["schlüssel", "two words", "line\nbreak", ""])
def test_a_key_that_no_header_can_carry_is_refused_in_words(word: str, run: Run, nobody: str, key: str) -> None:
    """The key is refused before anything is sent."""
    to = ("chat", word, "--port", nobody, "hello")
    status, out, err = run(*to, "--key", key)
    assert (status, out) == (1, "")
    assert re.fullmatch(r"invalid_request: --key: a key may have visible ASCII characters only.*\n", err), err
    status, out, err = run(*to, API_SECRET_KEY=key)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"settings: API_SECRET_KEY: .*\n", err), err


@pytest.mark.parametrize("word", ["ndjson", "grpc"])
def test_bytes_that_are_not_utf8_on_stdin_lose_nothing_else(servers: Servers, run: Run, word: str) -> None:
    to = ("chat", word, "--port", port_of(servers, word))
    given = b"hello\ncaf\xe9 au lait\nbye\n"
    status, out, err = run(*to, stdin=given)
    assert (status, err) == (
        0,
        "this line was not valid UTF-8: the bytes that could not be read were replaced by \ufffd\n",
    )
    asked = ("hello", "caf\ufffd au lait", "bye")
    assert out == "".join(said(*asked[: count + 1]).rstrip("\n") + "\n" for count in range(3))
    status, out, err = run(*to, "-", stdin=b"caf\xe9 au lait")
    assert (status, out.rstrip("\n")) == (0, said("caf\ufffd au lait").rstrip("\n"))
    assert err == "stdin is not valid UTF-8: the bytes that could not be read were replaced by \ufffd\n"


def test_arguments_that_are_not_utf8_are_sent_as_far_as_they_are_text(
    servers: Servers, word: str, run: Run, tmp_path: Path
) -> None:
    """Python keeps such bytes as lone surrogates (PEP 383); on Windows an emoji may come as its two halves."""
    to = ("chat", word, "--port", port_of(servers, word))
    status, out, err = run(*to, "caf\udce9")
    assert (status, out.rstrip("\n")) == (0, said("caf\ufffd").rstrip("\n"))
    assert err == "the argument MESSAGE is not valid UTF-8: the bytes that could not be read were replaced by \ufffd\n"
    assert run(*to, "\ud83d\ude80") == (0, said("🚀").rstrip("\n") + "\n", "")
    status, _, err = run(*to, "--session", "\udcff", "hello")
    assert (status, err.splitlines()[-1].partition(":")[0]) == (1, "session_not_found")
    status, out, _ = run("image", *to[1:], "--size", "32x32", "--out", str(tmp_path / "a\udce9.png"), "caf\udce9")
    assert status == 0
    assert (tmp_path / "a\udce9.png").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [(("hello",), ">&-"), (("-",), "<&-"), ((), "<&-"), (("hello",), "<&-"), ((), "<&- >&- 2>&-")],
)
def test_a_closed_stdin_or_stdout_is_a_sentence(
    servers: Servers, tmp_path: Path, arguments: tuple[str, ...], closed: str
) -> None:
    command = (
        f"'{sys.executable}' -m protocols chat sse --port {port_of(servers, 'sse')} {' '.join(arguments)} {closed}"
    )
    done = subprocess.run(command, shell=True, capture_output=True, input=b"hello\n", check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    if "2>&-" not in closed and (closed == ">&-" or arguments != ("hello",)):
        assert done.returncode == 1
        assert re.fullmatch(rb"[^\n]*std(in|out) is closed[^\n]*\n", done.stderr), done.stderr
    elif closed == "<&-":
        assert (done.returncode, done.stderr) == (0, b"")


def test_wrong_settings_and_arguments(run: Run) -> None:
    for arguments, env in (
        (("chat", "sse", "hello"), {"SSE_PORT": "none"}),
        (("chat", "sse", "--port", "70000", "hello"), {}),
        (("chat", "sse", "--json"), {}),
        (("chat", "carrier-pigeon", "hello"), {}),
        (("serve",), {}),
        ((), {}),
    ):
        status, out, err = run(*arguments, **env)
        assert (status, out) == (2, "")
        assert "Traceback" not in err
        assert err
    for port in ("none", "0", "70000", "9" * 5000):
        status, out, err = run("chat", "sse", "--port", port)
        assert "argument --port: a port is a number from 1 to 65535, not " in err


def test_the_way_back_names_the_server() -> None:
    """Host, port and TLS stand in the command where they are not the usual ones, and no address on the net is started here."""
    assert come_back("sse", "http://127.0.0.1:8002", 8002, "ID") == "python -m protocols chat sse --session ID"
    assert come_back("grpc", "grpcs://[::1]:9", 50051, "ID") == (
        "python -m protocols chat grpc --host [::1] --port 9 --tls --session ID"
    )
    assert "; start it with: " in absent("sse", "http://localhost:8002", 8002)
    assert "; check the address, or start the server there with: " in absent("sse", "http://chat.example:8002", 8002)


def test_help_shows_no_marks_of_the_source() -> None:
    """Every program's description is a sentence: neither the command, which usage shows, nor reStructuredText."""
    assert usage_of("``python -m compare race``: the ``lanes``, live.") == "The lanes, live."
    assert usage_of("Run a server until Ctrl-C.") == "Run a server until Ctrl-C."
    raw = re.compile(r"description=(?:main\.)?__doc__")
    folders = (ROOT / name for name in ("protocols", "compare", "sequence_diagrams"))
    assert not [path for folder in folders for path in folder.rglob("*.py") if raw.search(path.read_text("utf-8"))]


async def test_ctrl_c_cancels_the_turn_on_the_server(
    servers: Servers, client: Connect, word: str, tmp_path: Path
) -> None:
    looking = await client(word)
    session = await looking.create_session()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "protocols", "chat", word, "--port", port_of(servers, word)),
        *("--session", session.session_id, "/slow 60 never"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    async def running() -> str | None:
        return (await looking.get_session(session.session_id)).running_turn_id

    turn_id = await until(running, 30)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"cancelled\n")
    assert (await looking.get_turn(turn_id)).status == "cancelled"


def test_a_reader_that_leaves_gets_no_traceback(servers: Servers, run: Run) -> None:
    command = (
        f"'{sys.executable}' -m protocols chat sse --port {port_of(servers, 'sse')} '/tokens 20000 go' | head -c 10"
    )
    done = subprocess.run(command, shell=True, capture_output=True, check=False, timeout=60)
    assert (len(done.stdout), done.stderr) == (10, b"")


@pytest.mark.parametrize("shell", [False, True], ids=["one message", "shell"])
def test_a_stdout_that_is_full_is_one_line(servers: Servers, shell: bool) -> None:
    command = [sys.executable, "-m", "protocols", "chat", "ndjson", "--port", port_of(servers, "ndjson")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command, *([] if shell else ["/tokens 5 go"])],
            input=b"/tokens 5 go\n",
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr == b"ndjson client: stdout: No space left on device\n"


def test_a_picture(servers: Servers, word: str, run: Run, tmp_path: Path) -> None:
    to = ("image", word, "--port", port_of(servers, word), "--size", "96x64")
    named = tmp_path / "bridge.png"
    assert run(*to, "--out", str(named), "A red bridge!") == (0, f"{named}\n", "")
    assert run(*to, "A red bridge!") == (0, "a-red-bridge.png\n", "")
    # A file name that the client makes overwrites no file.
    assert run(*to, "A red bridge!") == (0, "a-red-bridge-2.png\n", "")
    pictures = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert (len(list(tmp_path.glob("*.png"))), len(pictures)) == (3, 1)
    with Image.open(io.BytesIO(pictures.pop())) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (96, 64))


def test_a_picture_that_is_refused(servers: Servers, word: str, run: Run, tmp_path: Path) -> None:
    to = ("image", word, "--port", port_of(servers, word))
    for arguments, code in (
        (("--size", "0x0", "a bridge"), "invalid_request"),
        (("--out", "no/such/folder/bridge.png", "a bridge"), "invalid_request"),
        (("--out", ".", "a bridge"), "invalid_request"),
        (("--out", "b" * 300, "a bridge"), "invalid_request"),
        (("--size", "64x64", "/fail content_refused a bridge"), "content_refused"),
    ):
        status, out, err = run(*to, *arguments)
        assert (status, out) == (1, "")
        assert re.fullmatch(rf"{code}: \S.*\n", err), err
    assert not list(tmp_path.iterdir())


def test_the_list_names_all_five(run: Run) -> None:
    status, out, _ = run("list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(WORDS)


def test_every_setting_is_in_the_example_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    example = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    defaults |= {row.port_setting: row.default_port for row in TRANSPORTS.values()}
    defaults |= {row.page_port_setting: None for row in TRANSPORTS.values() if row.page_word}
    assert example.keys() == defaults.keys()
    words = {None: "", False: "off", True: "on"}
    for name, value in example.items():
        if name != "STORE_URL":
            default = defaults[name]
            assert value == (words[default] if default is None or isinstance(default, bool) else str(default)), name


def test_the_demo(run: Run, tmp_path: Path) -> None:
    """All five lanes are equal. The demo runs from another folder and without a terminal."""
    status, out, err = run("demo", "--size", "128x96", **FAST)
    assert (status, err) == (0, ""), out
    for word in WORDS:
        assert re.search(rf"^{TRANSPORTS[word].label} .* yes +yes +yes *$", out, re.MULTILINE), out
        with Image.open(tmp_path / "demo-out" / f"{word}.png") as picture:
            assert picture.size == (128, 96)
    assert "Your name is **Ada**." in out
    assert len({(tmp_path / "demo-out" / f"{word}.png").read_bytes() for word in WORDS}) == 1


@pytest.mark.parametrize("columns", [40, 80])
def test_the_tables_of_the_demo_fit_a_terminal(columns: int) -> None:
    runs = {word: TransportRun(word, "turn 1 of 3", first_ms=[1_234.5] * 4, total_ms=[2_345.6] * 4) for word in WORDS}
    output = io.StringIO()
    console = Console(file=output, width=columns)
    show_runs(console, runs, Settings(), 3)
    console.print(DemoView(console, runs))
    rows = [
        line for line in output.getvalue().splitlines() if line.startswith(tuple(run.label for run in runs.values()))
    ]
    rows = [row for row in rows if "sends one whole reply" not in row]
    assert len(rows) == 2 * len(WORDS)
    for row, run in zip(rows, [*runs.values()] * 2, strict=True):
        assert row.startswith(f"{run.label} ")
        assert len(row.rstrip()) <= columns
        assert "…" not in row


def test_the_demo_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    env = {**os.environ, **FAST, "OFFLINE_FIRST_TOKEN_MS": "60000", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "protocols", "demo"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        up = next(line for line in process.stdout if line.startswith("All are up"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "stopped, and the five servers with it\n")
    for port in re.findall(r"127\.0\.0\.1:(\d+)", up):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port)))
