"""The shell in a real terminal: a pty with the program in it, and pyte as the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from protocols import TRANSPORTS
from protocols.processes import Server
from sequence_diagrams.terminal import PtyTerminal
from tests.conftest import Servers
from tests.shell.helpers import Open


def ports(servers: Mapping[str, Server]) -> dict[str, str]:
    return {f"{word.upper()}_PORT": server.address.rpartition(":")[2] for word, server in servers.items()}


@pytest.fixture
def env(servers: Servers, tmp_path: Path) -> dict[str, str]:
    """The settings of a shell that finds all five servers and has a history file of its own."""
    servers.start()
    return {**ports(servers), "XDG_STATE_HOME": str(tmp_path / "state"), "NO_PROXY": "*"}


@pytest.fixture
def shell(env: dict[str, str], tmp_path: Path) -> Iterator[Open]:
    """``shell(word, …)``: a shell in a terminal, ready to type; ended at the end."""
    opened: list[PtyTerminal] = []

    def open_one(
        word: str, *arguments: str, more: Mapping[str, str] | None = None, ready: str = "", **options: object
    ) -> PtyTerminal:
        terminal = PtyTerminal(word, {**env, **(more or {})}, *arguments, cwd=tmp_path, **options)  # type: ignore[arg-type]
        opened.append(terminal)
        terminal.wait(ready or rf"^{re.escape(TRANSPORTS[word].title)} at .* · offline-1 \(offline\)")
        return terminal

    yield open_one
    for terminal in opened:
        terminal.close()
