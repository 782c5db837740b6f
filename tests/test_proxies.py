"""The proxy lines of the leaves' READMEs, run as they stand there: tokens pass one by one through nginx, Caddy, haproxy."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from shared.client.protocol import Item
from shared.events import Chunk, TurnCompleted
from shared.reply import Reply
from tests.conftest import Servers

ROOT = Path(__file__).resolve().parents[1]
SILENCE_S = 1.5


def block(word: str, language: str) -> str:
    """The one block of a language in a leaf's README."""
    text = (ROOT / "protocols" / TRANSPORTS[word].folder / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^  ```{language}\n(.*?)^  ```$", text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found)


def nginx(folder: Path, lines: str) -> list[str]:
    config = folder / "nginx.conf"
    paths = " ".join(
        f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    head = f"daemon off; master_process off; pid {folder}/pid; error_log stderr error; events {{}}"
    # With gzip on for every type, as many have it.
    gzip = "gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;"
    config.write_text(f"{head}\nhttp {{ access_log off; {paths} {gzip}\n{lines}\n}}\n", encoding="utf-8")
    return [_program("nginx"), "-c", str(config), "-e", "stderr", "-p", str(folder)]


def caddy(folder: Path, lines: str) -> list[str]:
    config = folder / "Caddyfile"
    options = "\n    admin off\n    auto_https off\n    persist_config off\n"
    text = lines.replace("{", "{" + options, 1) if lines.startswith("{") else f"{{{options}}}\n{lines}"
    config.write_text(text, encoding="utf-8")
    return [_program("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]


def haproxy(folder: Path, lines: str) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(f"global\n    log stderr local0 err\n{lines}", encoding="utf-8")
    return [_program("haproxy"), "-db", "-f", str(config)]


PROXIES: dict[str, tuple[str, Callable[[Path, str], list[str]]]] = {
    "nginx": ("nginx", nginx),
    "caddy": ("caddyfile", caddy),
    "haproxy": ("haproxy", haproxy),
}


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=f"{ROOT / '.venv' / 'bin'}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def proxy(name: str, word: str, target: str, folder: Path) -> Iterator[str]:
    """The proxy in front of a server; its address."""
    language, command = PROXIES[name]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    lines = block(word, language)
    assert lines.count(TRANSPORTS[word].address) >= 1
    lines = lines.replace(TRANSPORTS[word].address, target)
    # nginx wants an address, the others take one: nothing of this is to be reached from elsewhere.
    lines = re.sub(r"listen 8\d+", f"listen 127.0.0.1:{port}", lines)
    lines = lines.replace("bind :8080", f"bind 127.0.0.1:{port}")
    lines = re.sub(r"^:8080 ", f"http://:{port} ", lines, flags=re.MULTILINE)
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command(folder, lines), stdout=said, stderr=said, cwd=folder)
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                said.flush()
                assert process.poll() is None and time.monotonic() < deadline, (folder / "said").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@asynccontextmanager
async def asking(word: str, address: str) -> AsyncIterator[AsyncIterator[Item]]:
    async with TRANSPORTS[word].client(address, resume=False) as client:
        yield client.chat(f"/tokens 4 /stall {SILENCE_S} hello")


@pytest.mark.parametrize("name", PROXIES)
async def test_a_reply_passes_as_it_comes(name: str, word: str, servers: Servers, tmp_path: Path) -> None:
    """Two tokens, a silence, two tokens: the first two are here before the silence is over."""
    with proxy(name, word, servers[word].address, tmp_path) as address:
        arrived: list[tuple[float, Item]] = []
        async with asking(word, address) as items:
            async for item in items:
                arrived.append((time.monotonic(), item))
    kinds = [item for _, item in arrived]
    if not TRANSPORTS[word].tokens:
        assert isinstance(kinds[0], Reply)
        return
    chunks = [at for at, item in arrived if isinstance(item, Chunk)]
    assert isinstance(kinds[-1], TurnCompleted)
    assert len(chunks) == 4
    assert chunks[2] - chunks[1] > SILENCE_S * 0.6
