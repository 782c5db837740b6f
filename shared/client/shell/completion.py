"""Completion of commands and of their arguments: sessions, models, transports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from shared.client import text
from shared.client.shell.shell import Choices, Command, Shell
from shared.errors import ChatError, ConnectionLost
from shared.session import Session, short

_PATIENCE_S = 1.0
_FRESH_S = 3.0
_SESSIONS = 50
_TITLE_CELLS = 40


class CommandCompleter(Completer):
    """Completes lines that begin with a slash. ``shell`` is set after the screen that uses this completer was made."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self.shell: Shell | None = None
        self._known: dict[Choices, tuple[float, list[tuple[str, str]]]] = {}

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line or (self.shell is not None and self.shell.asking):
            return
        name, space, argument = line[1:].partition(" ")
        command = self._commands.get(name)
        if not space:
            choices = [(each.name, each.brief) for each in self._commands.values()]
            typed = name
        elif command is not None and " " not in argument.lstrip():
            choices = await self._choices(command.choices)
            typed = argument.lstrip()
        else:
            return
        for word, meaning in choices:
            if word.startswith(typed):
                yield Completion(word, start_position=-len(typed), display_meta=meaning)

    async def _choices(self, kind: Choices) -> list[tuple[str, str]]:
        at, known = self._known.get(kind, (0.0, []))
        if time.monotonic() - at > _FRESH_S:
            # With a slow or absent server there is no menu, but typing goes on.
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    known = await self._ask(kind)
            except (ChatError, ConnectionLost, TimeoutError):
                known = []
            self._known[kind] = (time.monotonic(), known)
        return known

    async def _ask(self, kind: Choices) -> list[tuple[str, str]]:
        shell = self.shell
        if shell is None or kind == "none":
            return []
        if kind == "commands":
            return [(each.name, each.brief) for each in self._commands.values()]
        if kind == "transports":
            return [(word, transport.title) for word, transport in shell.transports.items()]
        if shell.active.parted:
            return []
        client = shell.active.client
        if kind == "models":
            models = await client.list_models()
            return [(text.line(each.model), "the server's default" if each.default else "") for each in models]
        page = await client.list_sessions(_SESSIONS)
        return [(short(each.session_id), _meaning(each)) for each in page.sessions]


def _meaning(session: Session) -> str:
    """What the menu says of a session: how it begins, and how long it is."""
    counted = text.plural(session.message_count, "message")
    return f"{text.line(session.title, _TITLE_CELLS)} · {counted}" if session.title else counted
