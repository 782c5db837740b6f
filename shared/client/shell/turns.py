"""Turns on the screen, one after the other: each is asked for, read to its end, stopped, or moved to another transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from shared.client import text
from shared.client.files import free_name
from shared.client.protocol import Ask, Item, Lost, Reconnected, Rewound
from shared.client.shell.active_client import ActiveClient
from shared.client.shell.current_session import CurrentSession
from shared.client.shell.markdown import MarkdownStream
from shared.client.shell.pictures import TerminalPictures
from shared.client.shell.screen import Screen
from shared.client.shell.shown_turn import ShownTurn, ended_as
from shared.client.transport import Transports
from shared.errors import ChatError, ConnectionLost, NotOurServer, ServerAbsent
from shared.events import Chunk, ImageChunk, ImageStarted, TurnFailed, TurnStarted
from shared.reply import Picture, Reply

ASKED = "❯ "
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class TurnToShow:
    """A turn to show: one to ask for (``ask``), or one to read (``turn_id``). ``late``: it had to wait for another turn."""

    ask: Ask | None = None
    out: Path | None = None
    turn_id: str | None = None
    late: bool = False


class Turns:
    """``shown``: the turn on the screen. ``changed``: set when there is something to draw. ``tasks``: turns run in this group.

    ``last``: the turn that this shell asked for last in the current session.
    """

    tasks: asyncio.TaskGroup

    def __init__(self, screen: Screen, active: ActiveClient, session: CurrentSession, transports: Transports) -> None:
        self.shown: ShownTurn | None = None
        self.waiting: deque[TurnToShow] = deque()
        self.changed = asyncio.Event()
        self.failed = False
        self.last: TurnToShow | None = None
        self._screen = screen
        self._active = active
        self._session = session
        self._transports = transports
        self._pictures = TerminalPictures(screen)
        self._shown_ids: set[str] = set()
        self._own_requests: set[str | None] = set()
        self._showing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[ChatError | ConnectionLost | None] | None = None
        self._moved = False

    def show(self, wanted: TurnToShow) -> None:
        """Show a turn, after the turn on the screen and those that wait have ended."""
        late = self.shown is not None or bool(self.waiting)
        if wanted.ask is not None:
            self.last = wanted
        self.waiting.append(replace(wanted, late=late))
        self._next()

    def _next(self) -> None:
        while self.shown is None and self.waiting:
            wanted = self.waiting.popleft()
            if wanted.turn_id is None or wanted.turn_id not in self._shown_ids:
                reply_text = MarkdownStream(plain=self._screen.painter.plain)
                sent = wanted.ask is None
                self.shown = ShownTurn(
                    self._active.word,
                    wanted.ask,
                    # A turn that is read by its id comes event by event, also over plain REST.
                    streams=wanted.ask is None or self._transports[self._active.word].tokens,
                    turn_id=wanted.turn_id,
                    sent=sent,
                    reply_text=reply_text,
                )
                self._showing = self.tasks.create_task(self._run(self.shown, wanted))
        self.changed.set()

    async def idle(self) -> None:
        """Wait until no turn is shown."""
        while self._showing is not None and not self._showing.done():
            await asyncio.wait((self._showing,))

    async def stop(self) -> bool:
        """Cancel the turn on the screen. Its own terminal event then ends it here. False when there is no turn."""
        shown = self.shown
        if shown is None:
            return False
        if not shown.sent:
            await self.leave()
            self._note("stopped before it was sent")
            return True
        shown.stopping = True
        self.changed.set()
        try:
            async with asyncio.timeout(_STOP_S), self._active.asking() as client:
                await client.cancel(await self._turn_id(shown))
        except (ChatError, ConnectionLost, TimeoutError) as error:
            if self.shown is shown:
                await self.leave()
                why = "the server did not answer in time" if isinstance(error, TimeoutError) else error.message
                self._screen.note(
                    Text(
                        f"cannot stop the answer on the server: {text.clause(why)}; the shell no longer shows the answer",
                        style="red",
                    )
                )
                self._next()
        return True

    async def _turn_id(self, shown: ShownTurn) -> str:
        """The turn's id. Plain REST tells it only at the end: starting the request again with its key gives the same turn."""
        if shown.turn_id is None:
            assert shown.ask is not None
            shown.turn_id = (await self._active.client.start(shown.ask)).turn_id
        return shown.turn_id

    async def leave(self) -> ShownTurn | None:
        """Stop reading the turn on the screen, which goes on at the server, and drop those that wait. Returns the turn."""
        shown, showing = self.shown, self._showing
        self.waiting.clear()
        if shown is None or showing is None:
            return None
        showing.cancel()
        await asyncio.wait((showing,))
        self._print(shown, end=True)
        # /use shows it again.
        self._shown_ids.discard(shown.turn_id or "")
        self.shown = None
        self.changed.set()
        return shown

    async def move(self, word: str) -> None:
        """Use another transport from now on. The turn on the screen goes on over it, after its last event."""
        shown = self.shown
        if shown is not None and shown.sent:
            await self._turn_id(shown)
        client = await self._active.open(word)
        await self._session.unwatch()
        old = self._active.adopt(client)
        if shown is not None and self.shown is shown and self._reading is not None and not self._reading.done():
            self._moved = True
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        await old.aclose()
        self._session.watch()

    async def _run(self, shown: ShownTurn, wanted: TurnToShow) -> None:
        error: ChatError | ConnectionLost | None = None
        try:
            items = await self._ask(shown, wanted) if shown.ask is not None else None
        except (ChatError, ConnectionLost) as refused:
            error = refused
        else:
            error = await self._read_to_end(shown, items)
        if shown.turn_id is not None:
            self._shown_ids.add(shown.turn_id)
            if shown.status == "incomplete":
                # /use shows the turn again, because it was not read to its end.
                self._shown_ids.discard(shown.turn_id)
        await self._finish(shown, wanted, error)
        self.shown = None
        self._next()

    async def _ask(self, shown: ShownTurn, wanted: TurnToShow) -> AsyncGenerator[Item, None]:
        ask = shown.ask
        assert ask is not None
        if self._screen.draws and (ask.kind == "chat" or wanted.late):
            self._screen.rows(["", *self._screen.painter.rows(asked(ask))])
        session_id = self._session.session_id or await self._session.create()
        shown.ask = ask = replace(ask, session_id=session_id)
        if ask.kind == "image":
            await self._pictures.prepare()
        async with self._active.asking() as client:
            shown.send()
            self._own_requests.add(ask.request_id)
            self._active.stats.sent += 1
            return client.follow(ask)

    async def _read_to_end(
        self, shown: ShownTurn, items: AsyncGenerator[Item, None] | None
    ) -> ChatError | ConnectionLost | None:
        while True:
            if items is None:
                assert shown.turn_id is not None
                items = self._active.client.read(shown.turn_id, shown.after)
            self._reading = asyncio.create_task(self._read(shown, items))
            try:
                await asyncio.wait((self._reading,))
            finally:
                self._reading.cancel()
                await asyncio.wait((self._reading,))
            if not (self._moved and shown.status == "incomplete"):
                self._moved = False
                return None if self._reading.cancelled() else self._reading.result()
            self._moved, items = False, None
            before = shown.word
            self._print(shown)
            shown.go_over_to(self._active.word)
            since = f"after seq {shown.after}" if shown.after else "from the first event"
            self._note(f"── {before} → {shown.word}: the same turn goes on, {since} ──")

    async def _read(self, shown: ShownTurn, items: AsyncGenerator[Item, None]) -> ChatError | ConnectionLost | None:
        try:
            async with aclosing(items):
                async for item in items:
                    shown.add(item, self._active.stats)
                    await self._announce(shown, item)
                    self.changed.set()
        except (ChatError, ConnectionLost) as error:
            self._active.state = "up" if isinstance(error, ChatError) else "down"
            return error
        return None

    async def _announce(self, shown: ShownTurn, item: Item) -> None:
        """Print what the user should know at once. The text of the reply is drawn with the next frame."""
        if isinstance(item, Chunk | Reply):
            self._active.state = "up"
            new = "" if self._screen.draws else shown.printed.add(item.text)
            if new:
                self._screen.raw(new)
        elif isinstance(item, TurnStarted):
            self._active.state = "up"
            self._shown_ids.add(item.turn_id)
            if shown.ask is None and self._screen.draws and not shown.lost_events:
                again = Ask(text=item.input, kind=item.kind) if item.request_id in self._own_requests else None
                self._screen.rows(["", *self._screen.painter.rows(asked(again) if again else asked_by_another(item))])
                if item.kind == "image":
                    await self._pictures.prepare()
        elif isinstance(item, ImageChunk | ImageStarted):
            data = shown.completed_by(item)
            if data is not None:
                shown.preview = await self._pictures.preview(data)
        elif isinstance(item, Lost):
            self._active.state = "down"
            self._print(shown)
            self._note(f"── lost {text.after_seq(item.after)}: {text.clause(item.why)}; trying again ──")
        elif isinstance(item, Rewound):
            lost = f"the store lost {text.plural(item.lost_events, 'event')}"
            rest = "the answer again, as it is kept" if self._screen.draws else "the end of what is shown is not kept"
            self._note(f"── {lost}: {rest} ──")
        elif isinstance(item, Reconnected):
            self._active.state = "up"
            self._session.nudge()
            times = "" if item.attempts <= 1 else f" at attempt {item.attempts}"
            where = f"going on with seq {item.after + 1}" if item.after else "from the first event"
            self._note(f"── back after {text.duration(item.elapsed_ms)}{times}, {where} ──")

    def draw(self) -> bool:
        """Print some of the finished blocks of the reply. Whether there may be more."""
        shown = self.shown
        return shown is not None and self._screen.draws and self._print_some(shown)

    def _print_some(self, shown: ShownTurn, *, end: bool = False) -> bool:
        blocks = shown.reply_text.finished(end=end)
        self._screen.rows([row for block in blocks for row in self._screen.painter.block(block)])
        return bool(blocks)

    def _print(self, shown: ShownTurn, *, end: bool = False) -> None:
        while self._screen.draws and self._print_some(shown, end=end):
            pass

    async def _finish(self, shown: ShownTurn, wanted: TurnToShow, error: ChatError | ConnectionLost | None) -> None:
        """Print the rest of a turn that has ended, how it ended, and the line with its numbers."""
        more = self._screen.draws
        while more:
            more = self._print_some(shown, end=True)
            # Keys that are typed during a long reply are handled in between.
            await asyncio.sleep(0)
        said = shown.printed.text
        if said and not said.endswith("\n"):
            self._screen.raw("\n")
        if isinstance(shown.end, TurnFailed):
            error = ChatError.received(shown.end.code, shown.end.message)
        if shown.stopping and isinstance(error, ChatError) and error.code == "turn_not_completed":
            # Plain REST answers so to the request for a picture that was stopped.
            error, shown.stopped = None, True
        if error is not None:
            advice = _advice(error) if shown.ours and self._screen.attended else ""
            absent = isinstance(error, ServerAbsent)
            self._screen.note(self._active.explain(error, "" if absent else advice))
            if absent and advice:
                # On a line of its own, so that the command in the line before can be copied.
                self._note(f"then {advice}")
        if not self._screen.draws and error is None and (ended := ended_as(shown.status, bool(shown.text))):
            self._note(ended)
        picture = shown.final_picture()
        if picture is not None:
            await self._save_picture(shown, picture, wanted.out)
        if shown.ours:
            self.failed |= shown.status != "completed"
            if shown.sent:
                shown.count(self._active.stats)
        if self._screen.draws and shown.turn_id is not None:
            self._screen.rows([""])
            self._note(shown.summary)
            if shown.proof:
                self._note(shown.proof)

    async def _save_picture(self, shown: ShownTurn, picture: Picture, out: Path | None) -> None:
        facts = f"{picture.width}x{picture.height}, {text.size(len(picture.image))}"
        if picture.revised_prompt:
            facts += f", drawn from: {text.line(picture.revised_prompt, 200)}"
        await self._pictures.draw(picture.image)
        if not shown.ours:
            self._screen.say(Text(facts))
            return
        assert shown.ask is not None
        path = out or free_name(shown.ask.text, picture.mime_type)
        try:
            await asyncio.to_thread(path.write_bytes, picture.image)
        except OSError as error:
            self._screen.note(Text(f"cannot write {text.line(str(path))}: {error.strerror}", style="red"))
            self.failed = True
            return
        self._screen.say(Text(f"{path}  {facts}" if self._screen.draws else str(path), overflow="fold"))

    def _note(self, words: str) -> None:
        self._screen.note(Text(words, style="dim"))


def _advice(error: ChatError | ConnectionLost) -> str:
    """What the user can do after a turn that this shell asked for has failed."""
    if isinstance(error, ServerAbsent) or (isinstance(error, ChatError) and error.retryable):
        return "/retry asks again"
    if isinstance(error, ChatError | NotOurServer):
        return ""
    # The turn may have gone on at the server.
    return "/history shows what the server kept"


def asked(ask: Ask) -> Text:
    """What this user asked, as it stays above the reply."""
    what = f"/image {ask.text}" if ask.kind == "image" else ask.text
    return Text.assemble((ASKED, "bold cyan"), (text.visible(what).replace("\n", f"\n{' ' * len(ASKED)}"), "bold"))


def asked_by_another(event: TurnStarted) -> Text:
    """What someone else in the session asked."""
    what = "asks for a picture: " if event.kind == "image" else ""
    said = text.visible(event.input).replace("\n", f"\n{' ' * len(ASKED)}")
    return Text.assemble(("someone else ", "magenta"), (ASKED, "bold magenta"), (what, "magenta"), (said, "bold"))
