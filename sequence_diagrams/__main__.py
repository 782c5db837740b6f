"""``python -m sequence_diagrams [WORD ...]``: record the scripts and draw them; ``--check`` compares with what is committed."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from compare.valkey import Valkey
from protocols import TRANSPORTS
from protocols.processes import Server, serving
from sequence_diagrams.draw import canonical, diagram, write_svg
from sequence_diagrams.moments import moments
from sequence_diagrams.script import FILES, NODE_DIES, SCRIPTS, SETTINGS, TITLES, recording_on

HERE = Path(__file__).parent
COMMAND = "python -m sequence_diagrams"


async def record(word: str, which: Sequence[str] = tuple(SCRIPTS)) -> dict[str, str]:
    """The Mermaid sources of a transport's scripts, by the names of their files. The scripts are played at the same time."""
    drawn = await asyncio.gather(*(_record_one(word, name) for name in which))
    return {FILES[word] + name: source for name, source in zip(which, drawn, strict=True)}


async def _record_one(word: str, name: str) -> str:
    async with _servers(word, 2 if name == NODE_DIES else 1) as servers, recording_on(word, *servers) as recording:
        await SCRIPTS[name](recording)
        return diagram(TITLES[name].format(TRANSPORTS[word].title), moments(recording), COMMAND)


@asynccontextmanager
async def _servers(word: str, count: int) -> AsyncIterator[list[Server]]:
    """One server on a file of SQLite, or several nodes on one Valkey."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder}/chat.db"
        if count > 1:
            valkey = Valkey(folder, ["save ''"])
            stack.callback(valkey.kill)
            url = (await asyncio.to_thread(valkey.start)).url
        env = {**SETTINGS, "STORE_URL": url}
        nodes = [serving(word, env=env, arguments=["--trace"]) for _ in range(count)]
        yield await asyncio.gather(*map(stack.enter_async_context, nodes))


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
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
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
