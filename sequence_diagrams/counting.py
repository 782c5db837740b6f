"""How much code a transport needs: lines of code, by the transports that need them.

The imports are followed from a transport's ``server.py`` and ``client.py``, wherever they lead in ``protocols`` and ``shared``. A
module that one transport alone reaches is counted for that transport, a module that some of the five reach is counted as shared.
A module that all five reach belongs to the chat itself. Lines of code are lines without blank ones, comments and docstrings.
Generated code is not counted; the ``.proto`` from which it is generated is.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from protocols import TRANSPORTS
from sequence_diagrams.imports import imported_names

ROOT = Path(__file__).resolve().parents[1]
_SPACE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_GENERATED = re.compile(r"(.*)_pb2(?:_grpc)?\.py$")


@dataclass(frozen=True, slots=True)
class Needed:
    """The lines of code of one transport.

    ``alone`` are beside the server and the client; ``shared`` has the lines by the words of the other transports that need them.
    """

    server: int
    client: int
    alone: int
    shared: Mapping[tuple[str, ...], int]


def needed(word: str) -> Needed:
    """The lines of code that a transport needs."""
    reached = _reached_by_transport()
    folder = ROOT / "protocols" / TRANSPORTS[word].folder
    server, client = folder / "server.py", folder / "client.py"
    alone = 0
    shared: dict[tuple[str, ...], int] = {}
    for path in reached[word] - {server, client}:
        others = tuple(other for other in TRANSPORTS if other != word and path in reached[other])
        if not others:
            alone += code_lines(path)
        elif len(others) < len(TRANSPORTS) - 1:
            shared[others] = shared.get(others, 0) + code_lines(path)
    return Needed(code_lines(server), code_lines(client), alone, {others: n for others, n in shared.items() if n})


@cache
def _reached_by_transport() -> dict[str, frozenset[Path]]:
    """The files that each transport's server and client need."""
    found = {}
    for word, transport in TRANSPORTS.items():
        files: set[Path] = set()
        for name in ("server.py", "client.py"):
            _follow(ROOT / "protocols" / transport.folder / name, files)
        found[word] = frozenset(files)
    return found


def _follow(path: Path, files: set[Path]) -> None:
    if path in files:
        return
    if generated := _GENERATED.match(path.name):
        files.add(path.with_name(f"{generated[1]}.proto"))
        return
    files.add(path)
    for name in imported_names(path):
        for found in _files_of(name):
            _follow(found, files)


def _files_of(name: str) -> list[Path]:
    """The files of a name that is imported, which may be a module, or of the module that has the name."""
    if name.partition(".")[0] not in ("protocols", "shared"):
        return []
    paths = [ROOT.joinpath(*module.split(".")) for module in (name.rpartition(".")[0], name) if module]
    return [found for path in paths for found in (path.with_suffix(".py"), path / "__init__.py") if found.exists()]


@cache
def code_lines(path: Path) -> int:
    """The lines of code of a Python or ``.proto`` file."""
    text = path.read_text(encoding="utf-8")
    return _proto_lines(text) if path.suffix == ".proto" else _python_lines(text)


def _python_lines(text: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SPACE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def _proto_lines(text: str) -> int:
    code = re.sub(r"//[^\n]*|/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)
    return sum(bool(line.strip()) for line in code.splitlines())
