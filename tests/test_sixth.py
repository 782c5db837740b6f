"""CONTRIBUTING.md's sixth transport, made as the page says in a copy of the project: it is the same chat."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import asyncio, pathlib, tempfile
from compare.lines.faults import Faults
from compare.lines.relay import Relay
from protocols import TRANSPORTS
from protocols.processes import serving
from shared.client.protocol import Lost, Reconnected
from shared.events import Chunk, TurnCompleted

assert pathlib.Path(__import__("protocols").__file__).is_relative_to(pathlib.Path.cwd())

async def main():
    with tempfile.TemporaryDirectory() as folder:
        async with serving("poll", env={"STORE_URL": f"sqlite:///{folder}/chat.db"}) as server:
            async with Relay(server.address, Faults(cut_after_event=6)) as relay:
                async with TRANSPORTS["poll"].client(relay.address) as client:
                    items = [item async for item in client.chat("/tokens 20 hello")]
    assert sum(isinstance(item, Chunk) for item in items) == 20
    assert [type(item) for item in items if isinstance(item, Lost | Reconnected)] == [Lost, Reconnected]
    assert isinstance(items[-1], TurnCompleted)
    print("the same chat")

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its sixth transport."""
    folder = tmp_path_factory.mktemp("sixth")
    for name in ("protocols", "shared", "compare", "tests"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "artefacts", "node_modules")
        )
    for name in ("pyproject.toml", ".env.example"):
        shutil.copy(ROOT / name, folder)
    if (ROOT / ".mypy_cache").is_dir():
        # What mypy has found in the files that are the same.
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^`([\w./]+)`:\n\n```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert {language for _, language, _ in blocks} == {"diff", "python"}
    for name, language, body in blocks:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if language == "python":
            path.write_text(body, encoding="utf-8")
            continue
        before = "".join(line[1:] for line in body.splitlines(keepends=True) if line.startswith(" "))
        after = "".join(line[1:] for line in body.splitlines(keepends=True))
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name} has changed"
        path.write_text(text.replace(before, after), encoding="utf-8")
    return folder


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(copy)
    return subprocess.run([sys.executable, *arguments], cwd=copy, env=env, capture_output=True, text=True)


@pytest.mark.timeout(300)
def test_a_conversation_over_a_line_that_breaks(copy: Path) -> None:
    ran = run(copy, "-c", SCRIPT)
    assert ran.stdout == "the same chat\n", ran.stderr


def test_it_is_in_the_table_and_can_be_used(copy: Path) -> None:
    assert "poll       protocols/long_poll" in run(copy, "-m", "protocols", "list").stdout
    assert "--session" in run(copy, "-m", "protocols", "chat", "poll", "--help").stdout


@pytest.mark.timeout(600)
def test_the_conformance_suite_takes_it(copy: Path) -> None:
    ran = run(copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_conformance.py", "-k", "poll")
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert int(re.findall(r"(\d+) passed", ran.stdout)[0]) > 20


def test_the_code_on_the_page_is_in_the_projects_style(copy: Path) -> None:
    leaf = "protocols/long_poll"
    for arguments in (("ruff", "check", leaf), ("ruff", "format", "--check", leaf), ("mypy", "-p", "protocols")):
        ran = run(copy, "-m", *arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
