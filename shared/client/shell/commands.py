"""The commands: one table, read by the shell, by ``/help`` and by the completion."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import sys
import time
import webbrowser
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from shared.client.protocol import Ask
from shared.client.shell import tally, text
from shared.client.shell.markdown import Blocks
from shared.client.shell.turns import Wanted, asked
from shared.errors import ChatError
from shared.session import Message, Session

if TYPE_CHECKING:
    from shared.client.shell.shell import Shell

Choices = Literal["none", "commands", "sessions", "models", "transports"]

_LISTED = 20
_PAGES = 10
_PINGS = 5
_OPTION = re.compile(r"""(?:^|\s)--(size|out)[ =]("[^"]*"|'[^']*'|\S+)""")
_SIZE = re.compile(r"\d{1,6}x\d{1,6}")
_YES = ("--yes", "-y")


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table; ``choices``: what its argument can be completed with."""

    name: str
    arguments: str
    brief: str
    run: Callable[[Shell, str], Awaitable[None]]
    more: str = ""
    choices: Choices = "none"


def nearest(name: str) -> str | None:
    """The command that someone may have meant."""
    return next(iter(difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.6)), None)


def _table(rows: Iterable[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> Table:
    """Rows of text in columns; what comes from a server is one line each."""
    table = Table(box=None, show_header=bool(header), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    given = [tuple(row) for row in rows]
    for i in range(len(header) or max(map(len, given), default=0)):
        table.add_column(header[i] if header else "", overflow="fold", style="" if i or header else "dim")
    for row in given:
        table.add_row(*(Text(text.line(cell)) for cell in row))
    return table


def _when(at_ms: float) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


# -- help ------------------------------------------------------------------------------------------------------------------


async def _help(shell: Shell, argument: str) -> None:
    name = argument.lstrip("/")
    command = COMMANDS.get(name)
    if name and command is None:
        near = nearest(name)
        shell.fail(
            f"There is no /{text.line(name, 40)}" + (f", did you mean /{near}?" if near else "; /help lists them.")
        )
    elif command is not None:
        shell.say(Text.assemble((f"/{command.name} {command.arguments}".strip(), "bold cyan"), f"\n{command.brief}"))
        if command.more:
            shell.say(command.more)
    else:
        shell.say(_table((f"/{each.name} {each.arguments}".strip(), each.brief) for each in _COMMANDS))
        shell.say(Text(_KEYS, style="dim"))


_KEYS = (
    "Enter sends · Alt-Enter, or a backslash at the end, begins a new line · Tab completes · Ctrl-C stops an answer, "
    "at the prompt the second one leaves · Ctrl-D leaves. A line that begins with a space is said to the model, slash and all."
)

# -- sessions --------------------------------------------------------------------------------------------------------------


async def _new(shell: Shell, argument: str) -> None:
    await _step_out(shell)
    session_id = await shell.room.make(argument or None)
    model = f" with {text.line(argument)}" if argument else ""
    shell.note(f"session {session_id}{model}")


async def _sessions(shell: Shell, argument: str) -> None:
    async with shell.link.asking() as client:
        page = await client.list_sessions(_LISTED)
    shell.room.listed = [session.session_id for session in page.sessions]
    if not page.sessions:
        shell.say("no sessions yet; the first message makes one")
        return
    shell.say(
        _table(
            (_session_row(shell, number, session) for number, session in enumerate(page.sessions, 1)),
            header=("", "N", "session", "messages", "model", "last used", ""),
        )
    )
    more = " · there are more" if page.next_cursor else ""
    shell.note(f"{text.plural(page.active_sessions, 'session')} used lately{more} · /use N goes to one")


def _session_row(shell: Shell, number: int, session: Session) -> tuple[str, ...]:
    here = session.session_id == shell.room.session_id
    running = "an answer is running" if session.running_turn_id else ""
    others = text.plural(session.connections, "connection") if session.connections else ""
    return (
        "▸" if here else "",
        str(number),
        text.short(session.session_id),
        str(session.message_count),
        session.model or "default",
        _when(session.last_activity_at),
        " · ".join(part for part in (running, others) if part),
    )


async def _use(shell: Shell, argument: str) -> None:
    if not argument:
        shell.fail("Which one? /use N with a number of /sessions, or the beginning of an id.")
        return
    session_id = await _find(shell, argument)
    if session_id is None:
        shell.fail(f"No session begins with {text.line(argument, 40)}; /sessions lists them.")
        return
    async with shell.link.asking() as client:
        session = await client.get_session(session_id)
    await _step_out(shell)
    await shell.room.enter(session_id)
    counted = text.plural(session.message_count, "message")
    shell.note(f"session {session_id}, {counted}; /history shows them")
    if session.running_turn_id is not None:
        shell.turns.want(Wanted(turn_id=session.running_turn_id))


async def _find(shell: Shell, argument: str) -> str | None:
    """The id that a number of /sessions or the beginning of an id means. Raises ``invalid_request`` when it is two."""
    if argument.isdecimal() and 0 < int(argument) <= len(shell.room.listed):
        return shell.room.listed[int(argument) - 1]
    if len(argument) == 36:
        return argument
    found: list[str] = []
    cursor: str | None = None
    async with shell.link.asking() as client:
        for _ in range(_PAGES):
            page = await client.list_sessions(100, cursor)
            ids = [session.session_id for session in page.sessions]
            if argument.isdecimal() and not shell.room.listed and 0 < int(argument) <= len(ids):
                shell.room.listed = ids
                return ids[int(argument) - 1]
            found += [session_id for session_id in ids if session_id.startswith(argument.lower())]
            cursor = page.next_cursor
            if cursor is None:
                break
    if len(found) > 1:
        raise ChatError("invalid_request", f"{len(found)} sessions begin with that; give a few characters more.")
    return found[0] if found else None


async def _step_out(shell: Shell) -> None:
    """Leave the turn on the screen alone, before another session comes."""
    answer = await shell.turns.leave()
    if answer is not None and answer.sent:
        shell.note(
            f"the answer in {text.short(shell.room.session_id)} goes on at the server; /use {text.short(shell.room.session_id)}"
        )


async def _info(shell: Shell, argument: str) -> None:
    session_id = _here(shell)
    async with shell.link.asking() as client:
        session = await client.get_session(session_id)
    running = f"turn {text.short(session.running_turn_id)}" if session.running_turn_id else "nothing"
    shell.say(
        _table(
            (
                ("session", session.session_id),
                ("model", session.model or "the server's default"),
                ("messages", f"{session.message_count} ({session.user_messages} yours, {session.model_messages} its)"),
                ("context", f"the newest turns within {session.max_context_chars:,} characters"),
                ("made", _when(session.created_at)),
                ("last used", _when(session.last_activity_at)),
                ("running", running),
                ("connections", str(session.connections)),
                ("transport", f"{shell.link.word} at {shell.link.client.address}"),
            )
        )
    )


async def _history(shell: Shell, argument: str) -> None:
    session_id = _here(shell)
    async with shell.link.asking() as client:
        messages = await client.list_messages(session_id)
    if not messages:
        shell.say("no messages yet")
    for message in messages:
        _say_message(shell, message)


def _say_message(shell: Shell, message: Message) -> None:
    screen = shell.screen
    if message.role == "user":
        screen.rows(["", *screen.paint.rows(asked(Ask(text=message.text)))])
    elif message.image_id:
        screen.say(Text(f"[picture {text.line(message.image_id)}]"))
    else:
        blocks = Blocks(plain=screen.paint.plain)
        blocks.feed(message.text)
        while done := blocks.take(end=True):
            for block in done:
                screen.rows(screen.paint.block(block))
    if message.status != "completed" and message.role == "model":
        shell.note(message.status)


async def _reset(shell: Shell, argument: str) -> None:
    session_id = _here(shell)
    async with shell.link.asking() as client:
        session = await client.get_session(session_id)
        counted = text.plural(session.message_count, "message")
    if argument in _YES or await shell.confirm(f"Empty session {text.short(session_id)} of its {counted}?"):
        with shell.room.doing("session_cleared"):
            async with shell.link.asking() as client:
                await client.clear_session(session_id)
        shell.note("emptied")


async def _delete(shell: Shell, argument: str) -> None:
    session_id = _here(shell)
    if argument in _YES or await shell.confirm(f"Delete session {text.short(session_id)} and its turns?"):
        with shell.room.doing("session_deleted"):
            async with shell.link.asking() as client:
                await client.delete_session(session_id)
        await shell.room.enter(None)
        shell.note("deleted; the next message makes a new session")


def _here(shell: Shell) -> str:
    if shell.room.session_id is None:
        raise ChatError("session_not_found", "You are in no session yet.")
    return shell.room.session_id


async def _clear(shell: Shell, argument: str) -> None:
    shell.screen.clear()


# -- turns -----------------------------------------------------------------------------------------------------------------


async def _image(shell: Shell, argument: str) -> None:
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
        shell.turns.want(Wanted(Ask(text=prompt, kind="image", size=size), out=path))


def _file(name: str) -> Path:
    return Path(name).expanduser()


async def _stop(shell: Shell, argument: str) -> None:
    if not await shell.turns.stop():
        shell.note("nothing is running")


async def _switch(shell: Shell, argument: str) -> None:
    words = ", ".join(shell.transports)
    if argument not in shell.transports:
        shell.fail(f"To which one? /switch {words}")
    elif argument == shell.link.word and not shell.link.parted:
        shell.note(f"this is {argument} already")
    else:
        running = shell.turns.answer is not None
        await shell.turns.move(argument)
        if not running:
            shell.note(f"now over {shell.transports[argument].title} at {shell.link.client.address}, the same session")


async def _cut(shell: Shell, argument: str) -> None:
    if shell.turns.answer is None and not shell.link.client.holds_connection:
        shell.note("nothing to cut: no answer is on its way, and this transport holds no connection between two")
        return
    shell.note("── cut on purpose ──")
    await shell.link.client.cut()


# -- numbers ---------------------------------------------------------------------------------------------------------------


async def _stats(shell: Shell, argument: str) -> None:
    tallies = list(shell.link.tallies.values()) or [shell.link.tally]
    shell.say(
        _table(
            ((name, *values) for name, values in tally.rows(tallies)),
            header=("this client", *(each.word for each in tallies)),
        )
    )
    here = "none"
    if shell.room.session_id is not None:
        here = text.short(shell.room.session_id)
        async with shell.link.asking() as client:
            session = await client.get_session(shell.room.session_id)
        here += f", {text.plural(session.message_count, 'message')}"
    shell.say(f"current session: {here}")


async def _server(shell: Shell, argument: str) -> None:
    async with shell.link.asking() as client:
        stats = await client.stats()
    shell.say(
        _table(
            (
                ("server", f"{shell.link.client.address} · {stats.framework}"),
                ("model", f"{stats.model} ({stats.provider})"),
                ("up for", text.duration(stats.uptime_s * 1000)),
                (
                    "requests",
                    f"{stats.requests_total} ({stats.requests_succeeded} done, {stats.requests_failed} failed)",
                ),
                ("average response", text.duration(stats.average_response_ms)),
                ("sessions", f"{stats.sessions_active} active, {stats.sessions_created} made"),
                ("open now", f"{stats.streams_active} streams, {stats.connections_active} connections"),
            )
        )
    )


async def _health(shell: Shell, argument: str) -> None:
    async with shell.link.asking() as client:
        answer = await client.health()
    shell.say(_table((str(name), str(value)) for name, value in answer.items()))


async def _ping(shell: Shell, argument: str) -> None:
    async with shell.link.asking() as client:
        trips_ms = sorted([await client.ping() for _ in range(_PINGS)])
    fastest, middle, slowest = (text.duration(trips_ms[i]) for i in (0, _PINGS // 2, -1))
    shell.say(f"{_PINGS} round trips over {shell.link.word}: {fastest} at best, {middle} median, {slowest} at worst")


# -- the server's pages, the connection -------------------------------------------------------------------------------------


async def _docs(shell: Shell, argument: str) -> None:
    await _page(shell, "/docs")


async def _demo(shell: Shell, argument: str) -> None:
    await _page(shell, "/demo")


async def _page(shell: Shell, path: str) -> None:
    address = shell.link.client.page(path)
    if address is None:
        async with shell.link.asking() as client:
            services = await client.services()
        at = shell.link.client.address
        shell.say(f"{shell.link.word} has no page for a browser; reflection says what can be called:")
        shell.say("\n".join(f"  {text.line(service)}" for service in services))
        shell.say(f"ask it yourself: grpcurl -plaintext {at} describe chat.ChatService")
        shell.say(f"or: buf curl --http2-prior-knowledge --list-methods http://{at}")
        return
    opened = _has_browser() and await asyncio.to_thread(webbrowser.open, address)
    shell.say(f"{'opened' if opened else 'open in a browser:'} {address}")


def _has_browser() -> bool:
    """Whether a browser would open a window of its own; one in this terminal would take it over."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


async def _connect(shell: Shell, argument: str) -> None:
    if not shell.link.client.holds_connection:
        shell.note(_NOT_HELD.format(word=shell.link.word))
        return
    if not shell.link.parted and shell.link.state == "up":
        shell.note("connected already")
        return
    begun = time.perf_counter()
    if shell.link.parted:
        await shell.link.connect()
    async with shell.link.asking() as client:
        await client.ping()
    shell.room.watch()
    shell.note(f"connected to {shell.link.client.address} in {text.duration((time.perf_counter() - begun) * 1000)}")


async def _disconnect(shell: Shell, argument: str) -> None:
    if not shell.link.client.holds_connection:
        shell.note(_NOT_HELD.format(word=shell.link.word))
        return
    if shell.link.parted:
        shell.note("not connected")
        return
    await _step_out(shell)
    await shell.room.unwatch()
    await shell.link.disconnect()
    shell.note("disconnected; the next message connects again, or /connect")


_NOT_HELD = "{word} holds no connection: every request makes one, or takes one that is still open"


async def _quit(shell: Shell, argument: str) -> None:
    shell.screen.leave()


_COMMANDS = (
    Command("help", "[COMMAND]", "every command, or more about one", _help, choices="commands"),
    Command(
        "new",
        "[MODEL]",
        "a new session",
        _new,
        "Made now, on the server. MODEL: one of the server's models; without it the session follows the server's default.",
        "models",
    ),
    Command("sessions", "", "the sessions, newest first; ▸ marks this one", _sessions, "Also who is running in them."),
    Command(
        "use",
        "N or ID",
        "go to a session",
        _use,
        "N: a number of /sessions. ID: an id or its beginning. An answer that is running there is shown from its start.",
        "sessions",
    ),
    Command("info", "", "this session", _info),
    Command("history", "", "what was said in this session", _history),
    Command("reset", "[--yes]", "empty this session", _reset, "Asks first. The logs of its turns stay."),
    Command("delete", "[--yes]", "delete this session and its turns", _delete, "Asks first."),
    Command("clear", "", "clear the screen (Ctrl-L)", _clear, "Only the screen: the session keeps its messages."),
    Command(
        "image",
        "PROMPT [--size WxH] [--out FILE]",
        "draw a picture and keep it in a file",
        _image,
        "1024x1024 unless told otherwise; the file is named after the prompt. Previews are shown as they come, where the "
        "transport streams.",
    ),
    Command(
        "stop", "", "stop the answer (Ctrl-C); what was said is kept", _stop, "Also someone else's in this session."
    ),
    Command(
        "switch",
        "TRANSPORT",
        "the same session over another transport",
        _switch,
        "Also in the middle of an answer: it goes on from the event where it stood, and the seam is shown.",
        "transports",
    ),
    Command(
        "cut",
        "",
        "drop the connection on purpose",
        _cut,
        "As a broken cable would. In the middle of an answer you see it come back: after which event it was lost, how long "
        "it took, and at the end that nothing was lost or came twice.",
    ),
    Command(
        "stats",
        "",
        "this client's numbers, per transport",
        _stats,
        "First token: from the request to the first chunk; on plain REST to the whole reply. Gap: from one chunk to the "
        "next, none across a cut or a switch. p50 and p99 are nearest-rank, over all turns of this run. Bytes: bodies and "
        "frames as far as the library shows them. Reconnects: streams that were lost; resumes: those that came back.",
    ),
    Command("server", "", "the server's numbers", _server),
    Command("health", "", "whether the server takes new turns", _health),
    Command("ping", "", "the round trip to the server", _ping, "Where a connection is held, on that connection."),
    Command("docs", "", "the server's API documentation, in the browser", _docs, "gRPC: by reflection instead."),
    Command("demo", "", "the server's demo page, in the browser", _demo, "gRPC: by reflection instead."),
    Command("connect", "", "connect, where a connection is held", _connect, "WebSocket and gRPC."),
    Command("disconnect", "", "close the held connection", _disconnect, "WebSocket and gRPC."),
    Command("quit", "", "leave (Ctrl-D)", _quit, "An answer that is running goes on for the server's grace period."),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _COMMANDS}
