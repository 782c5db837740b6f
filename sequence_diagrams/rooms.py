"""The rooms of the project and which of them import which, read from the source.

A room is a folder with all that is in it: ``shared/chat``, ``compare``. The files directly in ``protocols`` are a room, and so are
those directly in ``shared``. The folder of a transport is two rooms, the server's and the client's; a file that both need is in
both rooms, and so is generated code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from protocols import TRANSPORTS
from sequence_diagrams.imports import imported_modules, modules_of

PACKAGES = ("tests", "sequence_diagrams", "compare", "protocols", "shared")
# The modules with which a side of a transport begins: the table of transports imports them by these names.
_ENTRIES = {"server": ("server",), "client": ("client", "web_client")}


@dataclass(frozen=True, slots=True)
class Import:
    """An import of a module by a module."""

    importer: str
    imported: str


def side(word: str, name: str) -> str:
    """The room of a transport's ``server`` or ``client``."""
    return f"{word} {name}"


def imports_between_rooms(root: Path) -> Mapping[tuple[str, str], Import]:
    """The pairs of rooms of which the first imports the second, each with one such import.

    Raises ValueError where a module is in no room and is imported, or imports.
    """
    modules = modules_of(root, PACKAGES)
    imports = {name: set(imported_modules(path, modules)) - {name} for name, path in modules.items()}
    rooms = {name: _folder_room(path.relative_to(root)) for name, path in modules.items()}
    for room, names in _sides(imports):
        for name in names:
            rooms[name] |= {room}
    found: dict[tuple[str, str], Import] = {}
    for importer, names in imports.items():
        for imported in sorted(names):
            for outside in (name for name in (importer, imported) if not rooms[name]):
                raise ValueError(f"{importer} imports {imported}, and {outside} is in no room.")
            if not rooms[importer] & rooms[imported]:
                for pair in product(sorted(rooms[importer]), sorted(rooms[imported])):
                    found.setdefault(pair, Import(importer, imported))
    return found


def _folder_room(path: Path) -> frozenset[str]:
    """The room that a file is in by its folder. A transport's files are in no room by their folder."""
    package, *folders = path.parent.parts
    if package not in ("protocols", "shared"):
        return frozenset({package})
    if package == "protocols" and folders:
        return frozenset()
    return frozenset({"/".join([package, *folders[:1]])})


def _sides(imports: Mapping[str, set[str]]) -> Iterator[tuple[str, set[str]]]:
    """The rooms of the transports, each with its modules: a side's entries and what these need in the folder.

    The other side's entries are never among them, so that an import of such an entry is an import between two rooms.
    """
    for word, transport in TRANSPORTS.items():
        folder = f"protocols.{transport.folder}."
        entries = {name: {folder + entry for entry in _ENTRIES[name]} & imports.keys() for name in _ENTRIES}
        for name, other in (("server", "client"), ("client", "server")):
            reached = {one for one in imports if one.startswith(folder) and "_pb2" in one}
            waiting = set(entries[name])
            while waiting:
                module = waiting.pop()
                reached.add(module)
                inside = {one for one in imports[module] if one.startswith(folder)}
                waiting |= inside - reached - entries[other]
            yield side(word, name), reached
