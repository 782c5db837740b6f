"""The shell itself: typed lines go to a command or to the model, Ctrl-C stops what runs, and changes are drawn.

Commands run one after the other in one task and turns in another, so typing waits for neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from rich.text import Text

from shared.client import text
from shared.client.protocol import Ask, ChatClient
from shared.client.shell import view
from shared.client.shell.active_client import ActiveClient
from shared.client.shell.current_session import CurrentSession, OtherTurn, SessionNews, WatchLost, WatchRestored
from shared.client.shell.painter import Renderable
from shared.client.shell.screen import EnteredLine, Footer, Input, Interrupt, Screen, Typing
from shared.client.shell.turns import Turns, TurnToShow
from shared.client.transport import Transports
from shared.errors import ChatError, ConnectionLost
from shared.session import SessionUpdate
from shared.signals import handling_signals
from shared.stage_directions import OFFLINE, direction_named, mistake

_FRAME_S = 1 / 30
_IDLE_S = 1.0
_SHOW_COMMAND_S = 0.3
_CANCEL_S = 3.0
_ONE_ROW = 10_000
# After a Ctrl-C at the empty prompt a second one within this time leaves.
_SECOND_CTRL_C_S = 2.0
_UPDATES = {
    "session_cleared": "someone else emptied this session",
    "session_deleted": "someone else deleted this session; the next message creates a new one",
}


class CommandRefused(Exception):
    """A command cannot do what it is asked. The message says why and what to do; nothing was sent."""


Choices = Literal["none", "commands", "sessions", "models", "transports"]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table of commands. ``choices``: what completes its argument; ``more``: what ``/help NAME`` adds."""

    name: str
    arguments: str
    brief: str
    run: Callable[[Shell, str], Awaitable[None]]
    more: str = ""
    choices: Choices = "none"


@dataclass(slots=True)
class Shell:
    """One user at one screen. ``commands`` has ``use``, with which the shell enters the session that it was started for.

    ``come_back``: the command that opens the shell again in a session of this client's server.

    ``offline``: the server's model is the offline one, as far as is known.
    """

    screen: Screen
    active: ActiveClient
    session: CurrentSession
    turns: Turns
    transports: Transports
    commands: Mapping[str, Command]
    come_back: Callable[[ChatClient, str], str]
    offline: bool = True
    _lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _question: tuple[str, asyncio.Future[bool]] | None = None
    _command: asyncio.Task[None] | None = None
    _command_line: str = ""
    _command_since: float = 0.0
    _stopping: asyncio.Task[bool] | None = None
    _leaves_until: float = 0.0
    _loss_shown: bool = False

    def say(self, words: Renderable) -> None:
        """Print an answer to a command."""
        self.screen.say(words)

    def note(self, words: str, style: str = "dim") -> None:
        """Print a remark."""
        self.screen.note(Text(words, style=style))

    def fail(self, words: str) -> None:
        """Print why a command failed."""
        self.note(words, "red")
        self.turns.failed = True

    def no_such_command(self, name: str) -> str:
        """The words for a command that is not in the table, with the nearest one that is."""
        if direction_named(f"/{name} "):
            return f"There is no /{name} for this server's model; only the offline model follows stage directions."
        near = next(iter(difflib.get_close_matches(name.lower(), self.commands, n=1, cutoff=0.6)), None)
        hint = f", did you mean /{near}?" if near else "; /help lists the commands."
        return f"There is no /{text.line(name, 40)}{hint}"

    @property
    def asking(self) -> bool:
        """Whether the next line answers a question of the shell."""
        return self._question is not None

    async def confirm(self, question: str) -> bool:
        """Ask the user. False in a pipe, where no user can answer."""
        if not self.screen.attended:
            self.fail(f"{question} Say so with --yes.")
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._question = (question, answer)
        self.screen.ask(f"{question} [y/N] ")
        self.screen.refresh()
        try:
            agreed = await answer
        finally:
            self._question = None
        if not agreed:
            self.note("nothing was changed")
        return agreed

    async def live(self, session_id: str | None) -> None:
        """Run from the first line to the last. ``session_id``: the session to enter."""
        self.screen.footer = self._footer
        if not self.screen.attended:
            await self.open(session_id)
        async with asyncio.TaskGroup() as tasks:
            self.turns.tasks = tasks
            background = [tasks.create_task(work) for work in self._background(session_id)]
            try:
                with _leaving_on_signals(self.screen):
                    async for item in self.screen.inputs():
                        await self._handle(item)
                        self.turns.changed.set()
            finally:
                for task in background:
                    task.cancel()
                await self._leave()

    def _background(self, session_id: str | None) -> list[Coroutine[None, None, None]]:
        if not self.screen.attended:
            return []
        return [self._work(session_id), self._read_news(), *([self._draw()] if self.screen.draws else [])]

    async def _handle(self, item: Input) -> None:
        if isinstance(item, EnteredLine):
            self._leaves_until = 0.0
            self.session.type("")
            if item.damaged:
                self.note(f"this line was {text.NOT_UTF8}")
            if self._question is not None:
                self._answer_question(item.text)
            elif self.screen.attended:
                self._lines.put_nowait(item.text)
            elif item.text.strip():
                # In a pipe each line waits for the line before it.
                await self.do(item.text)
                await self.turns.idle()
        elif isinstance(item, Typing):
            if item.text:
                self._leaves_until = 0.0
            self.session.type(item.text)
        elif isinstance(item, Interrupt):
            self._interrupt(item)

    def _answer_question(self, said: str) -> None:
        assert self._question is not None
        (question, answer), self._question = self._question, None
        if not answer.done():
            if self.screen.draws:
                self.screen.say(Text(f"{question} {text.line(said)}"))
            answer.set_result(said.strip().lower() in ("y", "yes"))

    def _interrupt(self, item: Interrupt) -> None:
        """Ctrl-C stops what runs, or clears what is typed. At an empty prompt with nothing running, two of them leave."""
        shown = self.turns.shown
        leaves, self._leaves_until = time.monotonic() < self._leaves_until, 0.0
        if self._question is not None:
            self._answer_question("no")
        elif self._command is not None and not self._command.done():
            self._command.cancel()
        elif shown is not None and shown.ours and not shown.stopping:
            self._stopping = asyncio.create_task(self.turns.stop())
        elif item.typed:
            self.screen.set_line("")
        elif leaves:
            self.screen.leave()
        else:
            self._leaves_until = time.monotonic() + _SECOND_CTRL_C_S
            others = shown is not None and not shown.ours
            within = f"Ctrl-C once more within {_SECOND_CTRL_C_S:g} s leaves"
            self.note(within + ("; /stop would stop the answer for everyone" if others else ""))

    async def _work(self, session_id: str | None) -> None:
        """Do the lines in order. Ctrl-C interrupts the current line alone."""
        await self._do_one("connecting", self.open(session_id))
        while True:
            if not self.screen.draws:
                await self.turns.idle()
                self.screen.ask("".join(part[1] for part in self._footer().prompt))
            line = await self._lines.get()
            if line.strip():
                await self._do_one(line, self.do(line))

    async def _do_one(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._command_line, self._command_since = name, time.monotonic()
        self._command = asyncio.create_task(work)
        try:
            await asyncio.wait((self._command,))
        finally:
            self._command.cancel()
            await asyncio.wait((self._command,))
        if self._command.cancelled():
            self.note("interrupted")
        else:
            self._command.result()
        self._command, self._command_line = None, ""
        self.turns.changed.set()

    async def do(self, line: str) -> None:
        """Run a command, or send a message.

        A line that begins with a space is never a command. Neither is one that begins with a stage direction, which the
        offline model follows.
        """
        if not line.startswith("/") or self._is_for_the_model(line):
            if self.offline and (wrong := mistake(line)):
                self.fail(wrong)
            else:
                self.turns.show(TurnToShow(Ask(text=line.strip())))
            return
        name, _, argument = line[1:].strip().partition(" ")
        if self.screen.draws:
            self.screen.rows(["", *self.screen.painter.rows(Text(text.line(line), style="bold cyan"))])
        command = self.commands.get(name)
        if command is None:
            self.fail(f"{self.no_such_command(name)} (A line that begins with a space goes to the model.)")
            return
        try:
            await command.run(self, argument.strip())
        except CommandRefused as refusal:
            self.fail(str(refusal))
        except (ChatError, ConnectionLost) as error:
            self.screen.note(self.active.explain(error))
            self.turns.failed = True

    @property
    def transport_title(self) -> str:
        """The name of the transport in use."""
        word = self.active.word
        return self.transports[word].title if word in self.transports else word

    def _is_for_the_model(self, line: str) -> bool:
        name = direction_named(line)
        return self.offline and bool(name) and name not in self.commands

    async def open(self, session_id: str | None) -> None:
        """Connect, and say to which server and model."""
        try:
            async with self.active.asking() as client:
                stats = await client.stats()
                self.offline = stats.provider == OFFLINE
                about = (
                    f"{self.transport_title} at {client.address} · {stats.model} ({stats.provider}) · {stats.framework}"
                )
                if self.screen.attended:
                    self.note(text.line(about))
                    page = client.page("/")
                    browser = f"; in a browser: {page} (race: /race)" if page is not None else ""
                    self.note(f"/help lists the commands{browser}; python -m compare: race, run, guide, probe")
                if session_id is not None:
                    await self.commands["use"].run(self, session_id)
        except (ChatError, ConnectionLost) as error:
            if not self.screen.attended:
                raise
            self.screen.note(self.active.explain(error))

    async def _read_news(self) -> None:
        """Show what happens in the session without this shell."""
        async for news in self.session.news():
            self._show_news(news)
            self.turns.changed.set()

    def _show_news(self, news: SessionNews) -> None:
        if isinstance(news, OtherTurn):
            self.turns.show(TurnToShow(turn_id=news.turn_id))
        elif isinstance(news, WatchLost):
            # A turn that is being read says by itself that the connection was lost.
            self._loss_shown = self.turns.shown is None
            if self._loss_shown:
                self.note(f"── connection lost: {text.clause(news.why)}; trying again ──")
        elif isinstance(news, WatchRestored):
            if self._loss_shown:
                self.note(f"── connected again after {text.duration(news.elapsed_ms)} ──")
        elif isinstance(news, SessionUpdate) and news.update_type in _UPDATES:
            self.note(_UPDATES[news.update_type])
            if news.update_type == "session_deleted":
                self.session.session_id = None

    def _footer(self) -> Footer:
        """The live rows and the prompt as they are now."""
        slow = time.monotonic() - self._command_since > _SHOW_COMMAND_S
        command = self._command_line if slow and self._question is None else ""
        question = self._question[0] if self._question else None
        return Footer(
            view.prompt(self.active, self.session, self.turns.shown, question),
            view.live(self.screen.painter, self.screen.live_height, self.turns, self.session, command),
            "" if question else view.HINT,
        )

    async def _draw(self) -> None:
        """Draw whenever something has changed, at most thirty times a second, and for at most half of the time."""
        while True:
            moving = self.turns.shown is not None or bool(self._command_line) or self.session.someone_types
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(view.SPIN_S if moving else _IDLE_S):
                    await self.turns.changed.wait()
            self.turns.changed.clear()
            began = time.monotonic()
            while self.turns.draw():
                self.turns.changed.set()
                await asyncio.sleep(0)
            self.screen.refresh()
            await asyncio.sleep(max(_FRAME_S, time.monotonic() - began))

    async def _leave(self) -> None:
        """Close everything, and say how to come back."""
        if not self.screen.attended:
            # Interrupted in the middle of a turn: in a pipe no reader comes back for the rest.
            if self.turns.shown is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CANCEL_S):
                        await self.turns.stop()
            await self.session.unwatch()
            await self.active.client.aclose()
            return
        left = await self.turns.leave()
        await self.session.unwatch()
        await self.active.client.aclose()
        if left is not None and left.ours and left.sent:
            self.note(
                "the answer goes on at the server for the server's grace period (DISCONNECT_GRACE_S, 30 s unless set)"
            )
        if self.session.session_id is not None:
            command = self.come_back(self.active.client, self.session.session_id)
            # One row, which the terminal breaks where it is too narrow, so that a copied command has no line break in it.
            row = Text(f"to come back: {command}", style="dim")
            self.screen.note(row, _ONE_ROW)


def _leaving_on_signals(screen: Screen) -> AbstractContextManager[None]:
    """SIGTERM, and SIGHUP of a closed terminal window, leave the shell, so that the terminal is restored."""
    numbers = (signal.SIGTERM, signal.SIGHUP) if screen.attended and sys.platform != "win32" else ()
    return handling_signals(numbers, lambda number: screen.leave())
