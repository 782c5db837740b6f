"""Turns on the screen, one after the other: asked for, read to their end, stopped, and moved to another transport on the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from shared.client.files import free_name
from shared.client.protocol import Ask, Item, Lost, Resumed
from shared.client.shell import text
from shared.client.shell.answer import Answer
from shared.client.shell.link import Link
from shared.client.shell.markdown import Blocks
from shared.client.shell.pictures import Easel
from shared.client.shell.room import Room
from shared.client.shell.screen import Screen
from shared.errors import ChatError, ConnectionLost
from shared.events import Chunk, ImageChunk, ImageStarted, TurnFailed, TurnStarted
from shared.reply import Picture, Reply

ASKED = "❯ "
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A turn to show: ours to ask for, or someone's to read; ``late``: it had to wait for another."""

    ask: Ask | None = None
    out: Path | None = None
    turn_id: str | None = None
    late: bool = False


class Turns:
    """``answer`` is the turn on the screen; ``changed`` is set whenever there is something to draw; ``tasks`` is where they run."""

    tasks: asyncio.TaskGroup

    def __init__(self, screen: Screen, link: Link, room: Room) -> None:
        self.answer: Answer | None = None
        self.waiting: deque[Wanted] = deque()
        self.changed = asyncio.Event()
        self.failed = False
        self._screen = screen
        self._link = link
        self._room = room
        self._easel = Easel(screen)
        self._seen: set[str] = set()
        self._ours: set[str | None] = set()
        self._showing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[ChatError | ConnectionLost | None] | None = None
        self._moved = False

    # -- what one can do with them

    def want(self, wanted: Wanted) -> None:
        """Show a turn, when the one on the screen has ended."""
        late = self.answer is not None or bool(self.waiting)
        self.waiting.append(replace(wanted, late=late))
        self._next()

    def _next(self) -> None:
        while self.answer is None and self.waiting:
            wanted = self.waiting.popleft()
            if wanted.turn_id is None or wanted.turn_id not in self._seen:
                blocks = Blocks(plain=self._screen.paint.plain)
                sent = wanted.ask is None
                self.answer = Answer(self._link.word, wanted.ask, turn_id=wanted.turn_id, sent=sent, blocks=blocks)
                self._showing = self.tasks.create_task(self._show(self.answer, wanted))
        self.changed.set()

    async def idle(self) -> None:
        """Wait until no turn is shown."""
        while self._showing is not None and not self._showing.done():
            await asyncio.wait((self._showing,))

    async def stop(self) -> bool:
        """Cancel the turn on its server; it ends on the screen by its own terminal event. False when there is none."""
        answer = self.answer
        if answer is None:
            return False
        if not answer.sent:
            await self.leave()
            self._note("stopped before it was sent")
            return True
        answer.stopping = True
        self.changed.set()
        try:
            async with asyncio.timeout(_STOP_S), self._link.asking() as client:
                await client.cancel(await self._turn_id(answer))
        except (ChatError, ConnectionLost, TimeoutError) as error:
            if self.answer is answer:
                await self.leave()
                why = "it did not answer in time" if isinstance(error, TimeoutError) else error.message
                self._screen.note(
                    Text(f"cannot stop it on the server: {text.line(why)}; no longer read here", style="red")
                )
                self._next()
        return True

    async def _turn_id(self, answer: Answer) -> str:
        """Its id, also where plain REST has not told us: the key names the turn, so starting it again joins it."""
        if answer.turn_id is None:
            assert answer.ask is not None
            answer.turn_id = (await self._link.client.start(answer.ask)).turn_id
        return answer.turn_id

    async def leave(self) -> Answer | None:
        """Read the turn on the screen no further, and forget those that wait; it goes on at the server."""
        answer, showing = self.answer, self._showing
        self.waiting.clear()
        if answer is None or showing is None:
            return None
        showing.cancel()
        await asyncio.wait((showing,))
        self._print(answer, end=True)
        # One can come back to it.
        self._seen.discard(answer.turn_id or "")
        self.answer = None
        self.changed.set()
        return answer

    async def move(self, word: str) -> None:
        """Another transport from now on; what is on the screen goes on over it, from the event where it stood."""
        answer = self.answer
        if answer is not None and answer.sent:
            await self._turn_id(answer)
        client = await self._link.open(word)
        await self._room.unwatch()
        old = self._link.adopt(client)
        if answer is not None and self.answer is answer and self._reading is not None and not self._reading.done():
            self._moved = True
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        await old.aclose()
        self._room.watch()

    # -- how one is read and shown

    async def _show(self, answer: Answer, wanted: Wanted) -> None:
        error: ChatError | ConnectionLost | None = None
        try:
            items = await self._ask(answer, wanted) if answer.ask is not None else None
        except (ChatError, ConnectionLost) as refused:
            error = refused
        else:
            error = await self._read_to_end(answer, items)
        if answer.turn_id is not None:
            self._seen.add(answer.turn_id)
        await self._close(answer, wanted, error)
        self.answer = None
        self._next()

    async def _ask(self, answer: Answer, wanted: Wanted) -> AsyncGenerator[Item, None]:
        ask = answer.ask
        assert ask is not None
        if self._screen.interactive and (ask.kind == "chat" or wanted.late):
            self._screen.rows(["", *self._screen.paint.rows(asked(ask))])
        session_id = self._room.session_id or await self._room.make()
        answer.ask = ask = replace(ask, session_id=session_id)
        if ask.kind == "image":
            await self._easel.prepare()
        async with self._link.asking() as client:
            answer.send()
            self._ours.add(ask.request_id)
            self._link.tally.sent += 1
            if ask.kind == "image":
                return client.image(ask.text, size=ask.size, session_id=session_id, request_id=ask.request_id)
            return client.chat(ask.text, session_id=session_id, request_id=ask.request_id)

    async def _read_to_end(
        self, answer: Answer, items: AsyncGenerator[Item, None] | None
    ) -> ChatError | ConnectionLost | None:
        while True:
            if items is None:
                assert answer.turn_id is not None
                items = self._link.client.read(answer.turn_id, answer.after)
            self._reading = asyncio.create_task(self._read(answer, items))
            try:
                await asyncio.wait((self._reading,))
            finally:
                self._reading.cancel()
                await asyncio.wait((self._reading,))
            if not (self._moved and answer.status == "incomplete"):
                self._moved = False
                return None if self._reading.cancelled() else self._reading.result()
            self._moved, items = False, None
            before = answer.word
            self._print(answer)
            answer.go_over_to(self._link.word)
            since = f"after seq {answer.after}" if answer.after else "from its first event"
            self._note(f"── {before} → {answer.word}: the same turn goes on, {since} ──")

    async def _read(self, answer: Answer, items: AsyncGenerator[Item, None]) -> ChatError | ConnectionLost | None:
        try:
            async with aclosing(items):
                async for item in items:
                    answer.take(item, self._link.tally)
                    await self._tell(answer, item)
                    self.changed.set()
        except (ChatError, ConnectionLost) as error:
            self._link.state = "up" if isinstance(error, ChatError) else "down"
            return error
        return None

    async def _tell(self, answer: Answer, item: Item) -> None:
        """What is said at once; the text itself is drawn with the frames."""
        if isinstance(item, Chunk | Reply):
            self._link.state = "up"
            if not self._screen.interactive:
                self._screen.raw(item.text)
        elif isinstance(item, TurnStarted):
            self._link.state = "up"
            self._seen.add(item.turn_id)
            if answer.ask is None and self._screen.interactive:
                again = Ask(text=item.input, kind=item.kind) if item.request_id in self._ours else None
                self._screen.rows(["", *self._screen.paint.rows(asked(again) if again else asked_by_another(item))])
                if item.kind == "image":
                    await self._easel.prepare()
        elif isinstance(item, ImageChunk | ImageStarted):
            data = answer.whole(item)
            if data is not None:
                answer.preview = await self._easel.preview(data)
        elif isinstance(item, Lost):
            self._link.state = "down"
            self._print(answer)
            self._note(f"── lost after seq {item.after}: {text.line(item.why)}; trying again ──")
        elif isinstance(item, Resumed):
            self._link.state = "up"
            self._room.nudge()
            times = "" if item.attempts <= 1 else f" at try {item.attempts}"
            where = f"going on with seq {item.after + 1}" if item.after else "from its first event"
            self._note(f"── back after {text.duration(item.elapsed_ms)}{times}, {where} ──")

    def draw(self) -> bool:
        """Print what of the reply is done, a little at a time; whether there may be more."""
        answer = self.answer
        return answer is not None and self._screen.interactive and self._print_some(answer)

    def _print_some(self, answer: Answer, *, end: bool = False) -> bool:
        blocks = answer.blocks.take(end=end)
        self._screen.rows([row for block in blocks for row in self._screen.paint.block(block)])
        return bool(blocks)

    def _print(self, answer: Answer, *, end: bool = False) -> None:
        while self._screen.interactive and self._print_some(answer, end=end):
            pass

    async def _close(self, answer: Answer, wanted: Wanted, error: ChatError | ConnectionLost | None) -> None:
        """The end of a turn: the rest of it, how it ended, and the quiet line."""
        more = self._screen.interactive
        while more:
            more = self._print_some(answer, end=True)
            # A long reply leaves room for what is typed.
            await asyncio.sleep(0)
        if not self._screen.interactive and answer.text and not answer.text.endswith("\n"):
            self._screen.raw("\n")
        if isinstance(answer.end, TurnFailed):
            error = ChatError.received(answer.end.code, answer.end.message)
        if error is not None:
            self._screen.note(self._link.explain(error))
        picture = answer.final_picture()
        if picture is not None:
            await self._keep(answer, picture, wanted.out)
        if answer.ours:
            self.failed |= answer.status != "completed"
            if answer.sent:
                answer.count(self._link.tally)
        if self._screen.interactive and answer.turn_id is not None:
            self._screen.rows([""])
            self._note(answer.summary)
            if answer.proof:
                self._note(answer.proof)

    async def _keep(self, answer: Answer, picture: Picture, out: Path | None) -> None:
        facts = f"{picture.width}x{picture.height}, {text.size(len(picture.image))}"
        if picture.revised_prompt:
            facts += f", drawn from: {text.line(picture.revised_prompt, 200)}"
        await self._easel.draw(picture.image)
        if not answer.ours:
            self._screen.say(Text(facts))
            return
        assert answer.ask is not None
        path = out or free_name(answer.ask.text, picture.mime_type)
        try:
            await asyncio.to_thread(path.write_bytes, picture.image)
        except OSError as error:
            self._screen.note(Text(f"cannot write {path}: {error.strerror}", style="red"))
            self.failed = True
            return
        self._screen.say(Text(f"{path}  {facts}" if self._screen.interactive else str(path), overflow="fold"))

    def _note(self, words: str) -> None:
        self._screen.note(Text(words, style="dim"))


def asked(ask: Ask) -> Text:
    """What we said, as it stays above its answer."""
    what = f"/image {ask.text}" if ask.kind == "image" else ask.text
    return Text.assemble((ASKED, "bold cyan"), (text.visible(what).replace("\n", f"\n{' ' * len(ASKED)}"), "bold"))


def asked_by_another(event: TurnStarted) -> Text:
    """What someone else said in our session."""
    what = "asks for a picture: " if event.kind == "image" else ""
    said = text.visible(event.input).replace("\n", f"\n{' ' * len(ASKED)}")
    return Text.assemble(("someone else ", "magenta"), (ASKED, "bold magenta"), (what, "magenta"), (said, "bold"))
