"""Which module imports which, read from the source with ``ast``; nothing is imported for it."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

# A line at the margin that begins an import, with the lines that belong to it.
_IMPORT = re.compile(r"^(?:from|import) .*\n?(?:(?:[ )].*)?\n)*", re.MULTILINE)


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, wherever in it: ``from shared.events import Chunk`` is ``shared.events.Chunk``.

    A name given to ``import_module`` counts where it stands in the call. Its variable parts are ``*``: ``protocols.*.server``.
    Raises ValueError for a relative import, which the project does not use.
    """
    for node in ast.walk(_parsed(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                if node.level:
                    raise ValueError(f"{path}:{node.lineno} is a relative import")
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                match node.args[0]:
                    case ast.Constant(value=str(name)):
                        yield name
                    case ast.JoinedStr(values=[ast.Constant(value=str()), *_] as values):
                        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in values)


def _parsed(text: str) -> ast.Module:
    """The tree of a module up to its last import, or of the whole module where an import may stand elsewhere than at the margin.

    To parse is what takes time, and most modules begin with their imports.
    """
    lines = (line for line in text.splitlines() if "import" in line)
    if all(line.startswith(("from ", "import ")) for line in lines):
        with contextlib.suppress(SyntaxError):  # The line may stand in a string, which ends further below.
            return ast.parse(text[: max((found.end() for found in _IMPORT.finditer(text)), default=0)])
    return ast.parse(text)


def longest(name: str, modules: Collection[str]) -> str | None:
    """The module that an imported name comes from: ``shared.events.Chunk`` comes from ``shared.events``."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def imported_modules(path: Path, modules: Collection[str]) -> Iterator[str]:
    """Those of ``modules`` that a file imports; a name with ``*`` stands for every module that it fits."""
    for name in imported_names(path):
        if "*" in name:
            fitting = re.compile(re.escape(name).replace(r"\*", "[^.]+"))
            yield from filter(fitting.fullmatch, modules)
        elif found := longest(name, modules):
            yield found


def modules_of(root: Path, packages: Collection[str]) -> Mapping[str, Path]:
    """The files of the packages by the names of their modules: ``shared/chat/__init__.py`` is ``shared.chat``."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if "node_modules" not in parts:
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found
