"""What can go stale in the READMEs: generated parts are generated again, commands are run, transcripts are replayed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.picture_transfers import measure_transfers
from compare.showing.published import readme_table
from protocols import TRANSPORTS
from protocols.processes import serving
from sequence_diagrams.counting import code_lines, needed
from sequence_diagrams.pages import ARTICLE, COMMAND, PAGES, canonical, renew
from tests.conftest import Servers

ROOT = Path(__file__).resolve().parents[1]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def readme(word: str) -> str:
    return (ROOT / "protocols" / TRANSPORTS[word].folder / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in found]


@pytest.mark.parametrize("name", NAMES)
def test_made_parts_are_as_the_code_makes_them(name: str) -> None:
    page = ROOT / name
    now, committed = canonical(renew(page, without=("claims", "session"))), canonical(page.read_text(encoding="utf-8"))
    assert now.splitlines() == committed.splitlines(), f"{COMMAND} puts them right"


def test_the_articles_bytes_are_right() -> None:
    """The bytes of the four ways to a picture are compared. The times depend on the machine and are not."""
    text = ARTICLE.read_text(encoding="utf-8")
    weighed = asyncio.run(measure_transfers("256x256", 2))
    for transfer in weighed:
        (line, *_) = re.findall(rf"^\| {re.escape(transfer.name)} \|.*$", text, re.MULTILINE)
        *_, down, share, _ = (cell.strip() for cell in line.split("|"))
        assert int(down.replace(",", "")) == pytest.approx(transfer.down, rel=0.02), f"{COMMAND} puts it right"
        assert float(share.removesuffix(" ×")) == pytest.approx(transfer.down / transfer.picture, abs=0.02)


def test_the_results_in_the_readme_are_those_of_the_published_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_table((ROOT / "compare" / "RESULTS.md").read_text(encoding="utf-8")) in text, (
        f"{COMMAND} puts it right"
    )


def test_numbers_of_lines_are_right(word: str) -> None:
    folder = ROOT / "protocols" / TRANSPORTS[word].folder
    (line,) = re.findall(r"^Lines of code: .*$", readme(word), re.MULTILINE)
    for name, number in re.findall(r"\[(\w+\.py)\]\(\1\) (\d+)", line):
        assert code_lines(folder / name) == int(number), f"{COMMAND} puts it right"


def test_lines_of_code_are_no_comments_and_no_docstrings(tmp_path: Path) -> None:
    python = tmp_path / "sample.py"
    python.write_text(
        textwrap.dedent(
            '''\
            """A docstring
            on two lines."""

            # A comment.
            TEXT = """one
            string on
            three lines"""  # A comment behind code.


            def function(a: int) -> int:
                """A docstring."""

                return (
                    a
                )
            '''
        )
    )
    assert code_lines(python) == 7
    proto = tmp_path / "sample.proto"
    proto.write_text(
        'syntax = "proto3";\n\n// A comment.\n/* Another\n   one. */\nmessage A {\n  int32 b = 1;  // Why.\n}\n'
    )
    assert code_lines(proto) == 4


def test_lines_are_counted_by_who_needs_them() -> None:
    """Files that one transport alone reaches, and files that several share, are counted once, in any folder."""
    http = ("rest", "ndjson", "sse", "websocket")
    for word in TRANSPORTS:
        lines = needed(word)
        assert lines.server > 0 < lines.client
        assert (lines.alone > 0) == (word in ("websocket", "grpc"))
        groups = {tuple(one for one in TRANSPORTS if one in (word, *others)) for others in lines.shared}
        assert groups == ({http} if word in http else set()) | (
            {("websocket", "grpc")} if word in http[3:] or word == "grpc" else set()
        )
    websocket, grpc = needed("websocket"), needed("grpc")
    leaf = ROOT / "protocols" / "websocket"
    assert websocket.alone >= code_lines(leaf / "connection.py")
    assert websocket.shared["grpc",] == grpc.shared["websocket",] >= code_lines(ROOT / "shared/server/duplex.py")
    # The contract counts, and the script that generates code from it does not.
    files = [path for path in (ROOT / "protocols/grpc").iterdir() if path.suffix in (".py", ".proto")]
    most = sum(code_lines(path) for path in files if "_pb2" not in path.name and path.name != "setup.py")
    assert code_lines(ROOT / "protocols/grpc/chat.proto") < grpc.alone
    assert grpc.server + grpc.client + grpc.alone <= most + code_lines(ROOT / "shared/server/duplex.py")


def test_the_glance_counts_what_the_code_has() -> None:
    """The shared rows depend on many files, so a difference of a few lines is allowed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in text.splitlines()
        if len(cells := line.split("|")) > 3
    }
    for place, word in enumerate(TRANSPORTS):
        lines = needed(word)
        expected = {"server.py": lines.server, "client.py": lines.client, "beside them, for it alone": lines.alone}
        for name, number in expected.items():
            cell = rows[f"lines: {name}"][place]
            assert (0 if cell == "–" else int(cell)) == pytest.approx(number, rel=0.05, abs=5), (
                f"{COMMAND} puts it right"
            )
        counted = [
            int(cells[place]) for name, cells in rows.items() if "lines: shared by" in name and cells[place] != "–"
        ]
        assert sorted(counted) == pytest.approx(sorted(lines.shared.values()), rel=0.05, abs=5), (
            f"{COMMAND} puts it right"
        )


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("word", ["rest", "ndjson", "sse"])
def test_curl(word: str, servers: Servers, tmp_path: Path) -> None:
    """The commands under "Run it" are run unchanged except for the port."""
    commands = "".join(body for body in blocks(readme(word), "sh") if "curl" in body)
    assert commands.count(TRANSPORTS[word].address) == commands.count("curl ")
    script = "set -e\n" + commands.replace(TRANSPORTS[word].address, servers[word].address)
    ran = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "offline stand-in" in ran.stdout.replace('"}\n{', "") or "turn_completed" in ran.stdout
    if word == "rest":
        assert (tmp_path / "bridge.png").read_bytes().startswith(b"\x89PNG")


def test_buf_curl(servers: Servers) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    if buf is None:
        pytest.skip("buf is not installed")
    (command,) = [
        line for body in blocks(readme("grpc"), "sh") for line in body.splitlines() if line.startswith("buf curl")
    ]
    script = command.replace("buf curl", f"{buf} curl").replace(TRANSPORTS["grpc"].address, servers["grpc"].address)
    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "turnCompleted" in ran.stdout or "turn_completed" in ran.stdout


def test_the_articles_client(servers: Servers) -> None:
    """The Python of FROM_REST_TO_GRPC.md runs unchanged except for the port. Its contract is the .proto file's."""
    text = ARTICLE.read_text(encoding="utf-8")
    (client,) = blocks(text, "python")
    assert client.count(TRANSPORTS["grpc"].address) == 1
    code = client.replace(TRANSPORTS["grpc"].address, servers["grpc"].address)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"[0-9a-f-]{36}\.png \d+ bytes\n", ran.stdout), ran.stderr
    (contract,) = blocks(text, "proto")
    proto = re.sub(r" *//.*\n", "", (ARTICLE.parent / "image_generation.proto").read_text(encoding="utf-8"))
    assert re.sub(r"\s+", " ", contract).strip() in re.sub(r"\s+", " ", proto)


@asynccontextmanager
async def cut_line(word: str, folder: Path, faults: Faults) -> AsyncIterator[Relay]:
    env = {"GENAI_PROVIDER": "offline", "STORE_URL": f"sqlite:///{folder / 'chat.db'}"}
    async with serving(word, env=env) as server, Relay(server.address, faults) as relay:
        yield relay


@pytest.mark.parametrize("word", ["rest", "ndjson", "websocket", "grpc"])
async def test_the_transcript_of_a_cut(word: str, tmp_path: Path) -> None:
    """The transcript is played again and has the same words, lost and back at the same event."""
    command = f"$ python -m protocols chat {word} hello\n"
    (shown,) = [body for body in blocks(readme(word), "text") if body.startswith(command)]
    _, *lines = shown.rstrip("\n").split("\n")
    faults = Faults(cut_after_bytes=200) if word == "rest" else Faults(cut_after_event=9)
    async with cut_line(word, tmp_path, faults) as relay:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "protocols", "chat", word, "hello", "--port", relay.address.rpartition(":")[2]),
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
    # On a terminal each line about the connection is a line of its own.
    played = re.sub(r"(\[(?:lost|back)[^\]]*\])", r"\n\1\n", out.decode())
    assert _lines(played) == _lines("\n".join(lines))


def _lines(text: str) -> list[str]:
    return [re.sub(r"\d+ ms", "N ms", line.strip()) for line in text.split("\n") if line.strip()]
