"""The commands about sessions: make, list, choose, show, export, empty and delete them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.text import Text

from shared.client import text
from shared.client.files import obstacle, path_of
from shared.client.protocol import Ask
from shared.client.sessions import find_session
from shared.client.shell.exported import as_json, as_markdown
from shared.client.shell.markdown import MarkdownStream
from shared.client.shell.shell import CommandRefused, Shell
from shared.client.shell.shown_turn import ended_as
from shared.client.shell.tables import moment, table
from shared.client.shell.turns import TurnToShow, asked
from shared.session import Message, Session, short, short_turn

_LISTED = 20
# The cells that a row of /sessions has besides the title; on a narrow screen a row has only what one needs to choose.
_OTHER_COLUMNS = 60
_NARROW = 64
_OTHER_COLUMNS_NARROW = 16
_YES = ("--yes", "-y")


async def new(shell: Shell, argument: str) -> None:
    await leave_running_turn(shell)
    session_id = await shell.session.create(argument or None)
    model = f" with {text.line(argument)}" if argument else ""
    shell.note(f"session {session_id}{model}")


async def sessions(shell: Shell, argument: str) -> None:
    async with shell.active.asking() as client:
        page = await client.list_sessions(_LISTED)
    shell.session.listed = [session.session_id for session in page.sessions]
    if not page.sessions:
        shell.say("no sessions yet; the first message creates one")
        return
    header: tuple[str, ...] = ("", "N", "session", "begins with", "messages", "model", "last used", "")
    rows = [_session_row(shell, number, session) for number, session in enumerate(page.sessions, 1)]
    if shell.screen.painter.width < _NARROW:
        header, rows = header[:4], [row[:4] for row in rows]
    shell.say(table(rows, header=header))
    more = f" · the newest {_LISTED} are listed" if page.next_cursor else ""
    shell.note(f"{text.plural(page.active_sessions, 'session')} active{more} · /use N goes to one")


def _session_row(shell: Shell, number: int, session: Session) -> tuple[str, ...]:
    here = session.session_id == shell.session.session_id
    running = "an answer is running" if session.running_turn_id else ""
    others = text.plural(session.connections, "connection") if session.connections else ""
    return (
        "▸" if here else "",
        str(number),
        short(session.session_id),
        _title(session, shell.screen.painter.width),
        str(session.message_count),
        session.model or "default",
        moment(session.last_activity_at),
        " · ".join(part for part in (running, others) if part),
    )


def _title(session: Session, columns: int) -> str:
    """The title as it fits into a table of sessions beside the other columns."""
    others = _OTHER_COLUMNS_NARROW if columns < _NARROW else _OTHER_COLUMNS
    return text.line(session.title, max(12, columns - others)) or "no message yet"


async def use(shell: Shell, argument: str) -> None:
    if not argument:
        shell.fail("Which session? Type /use and a number of /sessions, or the beginning of an id.")
        return
    session_id = await _session_id_of(shell, argument)
    async with shell.active.asking() as client:
        session = await client.get_session(session_id)
    await leave_running_turn(shell)
    await shell.session.enter(session_id)
    counted = text.plural(session.message_count, "message")
    begins = f", “{text.line(session.title, 40)}”" if session.title else ""
    shows = f"; /history shows {'it' if session.message_count == 1 else 'them'}" if session.message_count else ""
    shell.note(f"session {session_id}{begins}, {counted}{shows}")
    if session.running_turn_id is not None:
        shell.turns.show(TurnToShow(turn_id=session.running_turn_id))


async def _session_id_of(shell: Shell, argument: str) -> str:
    """The id that ``argument`` means: a number of /sessions, an id, or its beginning."""
    async with shell.active.asking() as client:
        if argument.isdecimal() and not shell.session.listed:
            page = await client.list_sessions(_LISTED)
            shell.session.listed = [session.session_id for session in page.sessions]
        if argument.isdecimal() and 0 < int(argument) <= len(shell.session.listed):
            return shell.session.listed[int(argument) - 1]
        return await find_session(client, argument)


async def leave_running_turn(shell: Shell) -> None:
    """Stop showing the running turn, which goes on at the server, before another session is shown."""
    answer = await shell.turns.leave()
    shell.turns.last = None
    here = short(shell.session.session_id)
    if answer is not None and answer.sent:
        shell.note(f"the answer in {here} goes on at the server; /use {here}")


async def info(shell: Shell, argument: str) -> None:
    session_id = _current(shell)
    async with shell.active.asking() as client:
        session = await client.get_session(session_id)
    running = f"turn {short_turn(session.running_turn_id)}" if session.running_turn_id else "nothing"
    shell.say(
        table(
            (
                ("session", session.session_id),
                ("model", session.model or "the server's default"),
                (
                    "messages",
                    f"{session.message_count} ({session.user_messages} yours, {session.model_messages} the model's)",
                ),
                ("context", f"the newest turns within {session.max_context_chars:,} characters"),
                ("created", moment(session.created_at)),
                ("last used", moment(session.last_activity_at)),
                ("running", running),
                ("connections", str(session.connections)),
                ("transport", f"{shell.transport_title} at {shell.active.client.address}"),
            )
        )
    )


async def history(shell: Shell, argument: str) -> None:
    session_id = _current(shell)
    async with shell.active.asking() as client:
        messages = await client.list_messages(session_id)
    if not messages:
        shell.say("no messages yet")
    answered = {message.turn_id for message in messages if message.role == "model"}
    for message in messages:
        _say_message(shell, message, message.turn_id in answered)


def _say_message(shell: Shell, message: Message, answered: bool) -> None:
    screen = shell.screen
    if message.role == "user":
        screen.rows(["", *screen.painter.rows(asked(Ask(text=message.text)))])
    elif message.image_id:
        screen.say(Text(f"[picture {text.line(message.image_id)}]"))
    else:
        reply = MarkdownStream(plain=screen.painter.plain)
        reply.feed(message.text)
        while done := reply.finished(end=True):
            for block in done:
                screen.rows(screen.painter.block(block))
    if message.truncated:
        shell.note("cut at 3 MiB: the turn's log has the whole text")
    last = message.role == "model" or not answered
    if last and (ended := ended_as(message.status, message.role == "model" and bool(message.text))):
        shell.note(ended.partition(";")[0])


async def export(shell: Shell, argument: str) -> None:
    session_id = _current(shell)
    path = _export_path(argument, session_id)
    if why := obstacle(path):
        shell.fail(why)
        return
    if argument and path.exists() and not await shell.confirm(f"Write over {text.line(str(path))}?"):
        return
    async with shell.active.asking() as client:
        session = await client.get_session(session_id)
        messages = await client.list_messages(session_id)
    written = as_json(session, messages) if path.suffix.lower() == ".json" else as_markdown(session, messages)
    try:
        await asyncio.to_thread(path.write_text, written, encoding="utf-8")
    except OSError as error:
        shell.fail(f"cannot write {text.line(str(path))}: {error.strerror}")
        return
    shell.say(Text(f"{path}  {text.plural(len(messages), 'message')}", overflow="fold"))


def _export_path(given: str, session_id: str) -> Path:
    """The file that the user named, or a new one named after the session."""
    if given:
        return path_of(given.strip("\"'"))
    path, number = Path(f"session-{short(session_id)}.md"), 1
    while path.exists():
        number += 1
        path = Path(f"session-{short(session_id)}-{number}.md")
    return path


async def reset(shell: Shell, argument: str) -> None:
    session_id = _current(shell)
    async with shell.active.asking() as client:
        session = await client.get_session(session_id)
        counted = text.plural(session.message_count, "message")
    if argument in _YES or await shell.confirm(f"Empty session {short(session_id)} ({counted})?"):
        with shell.session.doing("session_cleared"):
            async with shell.active.asking() as client:
                await client.clear_session(session_id)
        shell.note("emptied")


async def delete(shell: Shell, argument: str) -> None:
    session_id = _current(shell)
    if argument in _YES or await shell.confirm(f"Delete session {short(session_id)} and its turns?"):
        with shell.session.doing("session_deleted"):
            async with shell.active.asking() as client:
                await client.delete_session(session_id)
        await shell.session.enter(None)
        shell.note("deleted; the next message creates a new session")


def _current(shell: Shell) -> str:
    if shell.session.session_id is None:
        raise CommandRefused(
            "You are in no session yet; the first message creates one, and /use enters an earlier one."
        )
    return shell.session.session_id
