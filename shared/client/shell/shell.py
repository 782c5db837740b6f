"""The shell itself: what is typed goes to a command or to the model; what is interrupted stops; what has changed is drawn.

Commands run one after the other in a task of their own, a turn in another, so nothing that one types waits for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.text import Text

from shared.client.protocol import Ask
from shared.client.shell import text, view
from shared.client.shell.commands import COMMANDS, nearest
from shared.client.shell.link import Link
from shared.client.shell.paint import Renderable
from shared.client.shell.room import Back, Began, Dropped, News, Room
from shared.client.shell.screen import Input, Interrupt, Line, Look, Screen, Typing
from shared.client.shell.turns import Turns, Wanted
from shared.errors import ChatError, ConnectionLost
from shared.session import SessionUpdate

_FRAME_S = 1 / 30
_IDLE_S = 1.0
_SHOW_COMMAND_S = 0.3
_CANCEL_S = 3.0
_TOLD = {
    "session_cleared": "someone else emptied this session",
    "session_deleted": "someone else deleted this session; the next message makes a new one",
}


class Transport(Protocol):
    """What the shell reads of a row of the table of transports."""

    @property
    def word(self) -> str:
        """Our word for it, such as ``sse``."""

    @property
    def title(self) -> str:
        """Its name, such as ``Server-Sent Events``."""


@dataclass(slots=True)
class Shell:
    """One user at one screen."""

    screen: Screen
    link: Link
    room: Room
    turns: Turns
    transports: Mapping[str, Transport]
    _lines: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _question: tuple[str, asyncio.Future[bool]] | None = None
    _command: asyncio.Task[None] | None = None
    _command_line: str = ""
    _command_since: float = 0.0
    _stopping: asyncio.Task[bool] | None = None
    _armed: bool = False
    _drop_told: bool = False

    # -- for the commands

    def say(self, words: Renderable) -> None:
        """Print an answer to a command."""
        self.screen.say(words)

    def note(self, words: str, style: str = "dim") -> None:
        """Print a remark."""
        self.screen.note(Text(words, style=style))

    def fail(self, words: str) -> None:
        """Print why a command could not do it."""
        self.note(words, "red")
        self.turns.failed = True

    @property
    def asking(self) -> bool:
        """Whether the next line answers a question of ours."""
        return self._question is not None

    async def confirm(self, question: str) -> bool:
        """Ask the user; no, where nobody is there to say yes."""
        if not self.screen.interactive:
            self.fail(f"{question} Say so with --yes.")
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._question = (question, answer)
        self.screen.refresh()
        try:
            return await answer
        finally:
            self._question = None

    # -- the life of it

    async def live(self, session_id: str | None) -> None:
        """From the first line to the last."""
        self.screen.look = self._look
        if not self.screen.interactive:
            await self.open(session_id)
        async with asyncio.TaskGroup() as tasks:
            self.turns.tasks = tasks
            background = [tasks.create_task(work) for work in self._background(session_id)]
            try:
                with _signals(self.screen):
                    await self._serve()
            finally:
                for task in background:
                    task.cancel()
                await self._leave()

    def _background(self, session_id: str | None) -> list[Coroutine[None, None, None]]:
        if not self.screen.interactive:
            return []
        return [self._work(session_id), self._hear_forever(), self._paint()]

    async def _serve(self) -> None:
        """Take what the user does until they leave."""
        async for item in self.screen.inputs():
            await self._take(item)
            self.turns.changed.set()

    async def _take(self, item: Input) -> None:
        if isinstance(item, Line):
            self._armed = False
            self.room.type("")
            if self._question is not None:
                self._answer_question(item.text)
            elif self.screen.interactive:
                self._lines.put_nowait(item.text)
            else:
                # In a pipe each line waits for the one before it.
                await self.do(item.text)
                await self.turns.idle()
        elif isinstance(item, Typing):
            self._armed = self._armed and not item.text
            self.room.type(item.text)
        elif isinstance(item, Interrupt):
            self._interrupt(item)

    def _answer_question(self, said: str) -> None:
        assert self._question is not None
        (question, answer), self._question = self._question, None
        if not answer.done():
            self.screen.say(Text(f"{question} {text.line(said)}"))
            answer.set_result(said.strip().lower() in ("y", "yes"))

    def _interrupt(self, item: Interrupt) -> None:
        """Ctrl-C: what runs is stopped; with nothing to stop and nothing typed it is a way to leave, at the second time."""
        answer = self.turns.answer
        armed, self._armed = self._armed, True
        if self._question is not None:
            self._answer_question("no")
        elif self._command is not None and not self._command.done():
            self._command.cancel()
        elif answer is not None and answer.ours and not answer.stopping:
            self._stopping = asyncio.create_task(self.turns.stop())
        elif item.typed:
            self.screen.set_line("")
        elif armed:
            self.screen.leave()
        else:
            theirs = answer is not None and not answer.ours
            self.note("Ctrl-C once more leaves" + ("; /stop would stop it for everyone" if theirs else ""))

    async def _work(self, session_id: str | None) -> None:
        """Do the lines in order; one can be interrupted without the others."""
        await self._one("connecting", self.open(session_id))
        while True:
            line = await self._lines.get()
            await self._one(line, self.do(line))

    async def _one(self, name: str, work: Coroutine[None, None, None]) -> None:
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
        """A command, or something to say to the model: a line that begins with a space is never a command."""
        if not line.startswith("/"):
            self.turns.want(Wanted(Ask(text=line.strip())))
            return
        name, _, argument = line[1:].strip().partition(" ")
        if self.screen.interactive:
            self.screen.rows(["", *self.screen.paint.rows(Text(text.line(line), style="bold cyan"))])
        command = COMMANDS.get(name)
        if command is None:
            near = nearest(name)
            hint = f", did you mean /{near}?" if near else "; /help lists them."
            self.fail(f"There is no /{text.line(name, 40)}{hint} (Begin with a space to say it to the model.)")
            return
        try:
            await command.run(self, argument.strip())
        except (ChatError, ConnectionLost) as error:
            self.screen.note(self.link.explain(error))
            self.turns.failed = True

    async def open(self, session_id: str | None) -> None:
        """Connect, and say where we are."""
        try:
            async with self.link.asking() as client:
                stats = await client.stats()
                title = self.transports[self.link.word].title if self.link.word in self.transports else self.link.word
                about = f"{title} at {client.address} · {stats.model} ({stats.provider}) · {stats.framework}"
                if self.screen.interactive:
                    self.note(text.line(about))
                if session_id is not None:
                    await COMMANDS["use"].run(self, session_id)
        except (ChatError, ConnectionLost) as error:
            if not self.screen.interactive:
                raise
            self.screen.note(self.link.explain(error))

    async def _hear_forever(self) -> None:
        """What happens without us."""
        async for news in self.room.news():
            self._hear(news)
            self.turns.changed.set()

    def _hear(self, news: News) -> None:
        if isinstance(news, Began):
            self.turns.want(Wanted(turn_id=news.turn_id))
        elif isinstance(news, Dropped):
            self._drop_told = self.turns.answer is None
            if self._drop_told:
                self.note(f"── connection lost: {text.line(news.why)}; trying again ──")
        elif isinstance(news, Back):
            if self._drop_told:
                self.note(f"── connected again after {text.duration(news.elapsed_ms)} ──")
        elif isinstance(news, SessionUpdate) and news.update_type in _TOLD:
            self.note(_TOLD[news.update_type])
            if news.update_type == "session_deleted":
                self.room.session_id = None

    # -- drawing

    def _look(self) -> Look:
        """The prompt and the live rows as they are now."""
        slow = time.monotonic() - self._command_since > _SHOW_COMMAND_S
        command = self._command_line if slow and self._question is None else ""
        question = self._question[0] if self._question else None
        return Look(
            view.prompt(self.link, self.room, self.turns.answer, question),
            view.live(self.screen.paint, self.screen.live_height, self.turns, self.room, command),
            "" if question else view.HINT,
        )

    async def _paint(self) -> None:
        """Draw whenever something has changed, at most thirty times a second and half of the time."""
        while True:
            moving = self.turns.answer is not None or bool(self._command_line) or self.room.someone_types
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
        """The last words, and everything closed."""
        if not self.screen.interactive:
            # Interrupted in the middle of a pipe's turn: nobody will ever read the rest.
            if self.turns.answer is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CANCEL_S):
                        await self.turns.stop()
            await self.room.unwatch()
            await self.link.client.aclose()
            return
        answer = await self.turns.leave()
        await self.room.unwatch()
        await self.link.client.aclose()
        if answer is not None and answer.ours and answer.sent:
            self.note(
                "the answer goes on at the server for its grace period (DISCONNECT_GRACE_S, 30 s); come back to it with:"
            )
        if self.room.session_id is not None:
            self.note(f"python -m protocols chat {self.link.word} --session {self.room.session_id}")


@contextlib.contextmanager
def _signals(screen: Screen) -> Iterator[None]:
    """A terminal that goes away, or whoever ends us, finds the terminal as it was."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGHUP) if screen.interactive and sys.platform != "win32" else ()
    for number in numbers:
        loop.add_signal_handler(number, screen.leave)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
