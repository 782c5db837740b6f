"""The commands about turns: ask for a picture, stop, ask again, change the transport, cut the connection."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

from shared.client import text
from shared.client.files import obstacle, path_of
from shared.client.protocol import Ask
from shared.client.shell.shell import Shell
from shared.client.shell.turns import TurnToShow
from shared.stage_directions import mistake
from shared.transports import word_named

_OPTION = re.compile(r"""(?:^|\s)--(size|out)[ =]("[^"]*"|'[^']*'|\S+)""")
_WITHOUT_VALUE = re.compile(r"(?:^|\s)--(?:size|out)(?=[\s=]|$)")
_SIZE = re.compile(r"\d{1,6}x\d{1,6}")


async def image(shell: Shell, argument: str) -> None:
    options = {name: value.strip("\"'") for name, value in _OPTION.findall(argument)}
    prompt = _OPTION.sub(" ", argument).strip()
    size, out = options.get("size"), options.get("out")
    path = path_of(out) if out else None
    if without := _WITHOUT_VALUE.search(prompt):
        shell.fail(f"{without[0].strip()} needs a value: /image PROMPT [--size WxH] [--out FILE]")
    elif not prompt:
        shell.fail("A picture of what? /image PROMPT [--size WxH] [--out FILE]")
    elif size is not None and not _SIZE.fullmatch(size):
        shell.fail(f"A size is WIDTHxHEIGHT, such as 512x512, not {text.line(size, 40)}.")
    elif why := obstacle(path):
        shell.fail(why)
    elif shell.offline and (wrong := mistake(prompt)):
        shell.fail(wrong)
    elif path is None or not path.exists() or await shell.confirm(f"Write over {text.line(str(path))}?"):
        shell.turns.show(TurnToShow(Ask(text=prompt, kind="image", size=size), out=path))


async def stop(shell: Shell, argument: str) -> None:
    if await shell.turns.stop():
        return
    session_id = shell.session.session_id
    if session_id is not None:
        # A turn may run that is not shown, such as one whose reading was given up while the server was away.
        async with shell.active.asking() as client:
            turn_id = (await client.get_session(session_id)).running_turn_id
            if turn_id is not None:
                await client.cancel(turn_id)
                shell.note("stopped an answer that was not shown here; /history shows what was kept of it")
                return
    shell.note("nothing is running")


async def switch(shell: Shell, argument: str) -> None:
    word = word_named(argument, shell.transports)
    if word is None:
        unknown = f"There is no transport {text.line(argument, 40)}; type" if argument else "To which transport? Type"
        shell.fail(f"{unknown} /switch and one of {', '.join(shell.transports)}.")
    elif word == shell.active.word and not shell.active.parted:
        shell.note(f"this is {shell.transports[word].title} already")
    else:
        running = shell.turns.shown is not None
        await shell.turns.move(word)
        if not running:
            same = ", the same session" if shell.session.session_id is not None else ""
            shell.note(f"now over {shell.transports[word].title} at {shell.active.client.address}{same}")


async def retry(shell: Shell, argument: str) -> None:
    if shell.turns.shown is not None:
        shell.note("an answer is arriving; /stop ends it")
        return
    again = shell.turns.last or await _last_of_session(shell)
    if again is None:
        shell.note("nothing to ask again: this session has no message yet")
        return
    assert again.ask is not None
    # A new key makes it a new turn: with the old one the server would answer with the turn that ended.
    shell.turns.show(replace(again, ask=replace(again.ask, request_id=str(uuid.uuid4()))))


async def _last_of_session(shell: Shell) -> TurnToShow | None:
    """The newest message of the session as a turn to ask for; None where there is none."""
    session_id = shell.session.session_id
    if session_id is None:
        return None
    async with shell.active.asking() as client:
        asked = [message for message in await client.list_messages(session_id) if message.role == "user"]
        if not asked:
            return None
        kind = (await client.get_turn(asked[-1].turn_id)).kind
    return TurnToShow(Ask(text=asked[-1].text, kind=kind))


async def cut(shell: Shell, argument: str) -> None:
    if shell.turns.shown is None and not shell.active.client.holds_connection:
        shell.note("nothing to cut: no answer is arriving, and this transport holds no connection between two requests")
        return
    shell.note("── cut on purpose ──")
    await shell.active.client.cut()
