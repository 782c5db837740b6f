"""The commands about turns: ask for a picture, stop, change the transport, cut the connection."""

from __future__ import annotations

import re
from pathlib import Path

from shared.client import text
from shared.client.protocol import Ask
from shared.client.shell.shell import Shell
from shared.client.shell.turns import TurnToShow

_OPTION = re.compile(r"""(?:^|\s)--(size|out)[ =]("[^"]*"|'[^']*'|\S+)""")
_SIZE = re.compile(r"\d{1,6}x\d{1,6}")


def _file(name: str) -> Path:
    return Path(name).expanduser()


async def image(shell: Shell, argument: str) -> None:
    options = {name: value.strip("\"'") for name, value in _OPTION.findall(argument)}
    prompt = _OPTION.sub(" ", argument).strip()
    size, out = options.get("size"), options.get("out")
    path = _file(out) if out else None
    if not prompt:
        shell.fail("A picture of what? /image PROMPT [--size WxH] [--out FILE]")
    elif size is not None and not _SIZE.fullmatch(size):
        shell.fail(f"A size is WIDTHxHEIGHT, such as 512x512, not {text.line(size, 40)}.")
    elif path is not None and not path.absolute().parent.is_dir():
        shell.fail(f"There is no folder {path.absolute().parent}.")
    else:
        shell.turns.show(TurnToShow(Ask(text=prompt, kind="image", size=size), out=path))


async def stop(shell: Shell, argument: str) -> None:
    if not await shell.turns.stop():
        shell.note("nothing is running")


async def switch(shell: Shell, argument: str) -> None:
    words = ", ".join(shell.transports)
    if argument not in shell.transports:
        shell.fail(f"To which transport? /switch {words}")
    elif argument == shell.active.word and not shell.active.parted:
        shell.note(f"this is {argument} already")
    else:
        running = shell.turns.shown is not None
        await shell.turns.move(argument)
        if not running:
            shell.note(
                f"now over {shell.transports[argument].title} at {shell.active.client.address}, the same session"
            )


async def cut(shell: Shell, argument: str) -> None:
    if shell.turns.shown is None and not shell.active.client.holds_connection:
        shell.note("nothing to cut: no answer is arriving, and this transport holds no connection between two requests")
        return
    shell.note("── cut on purpose ──")
    await shell.active.client.cut()
