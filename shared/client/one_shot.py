"""One message and its reply, or one picture, from the command line: the reply goes to stdout, everything about it to stderr."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

from shared.client import text
from shared.client.exit_status import DONE, INTERRUPTED, fail
from shared.client.files import free_name
from shared.client.printed import PrintedReply, write_stdout
from shared.client.protocol import Ask, ChatClient, Item, Lost, Reconnected, Rewound
from shared.errors import ChatError, ConnectionLost
from shared.events import (
    Chunk,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Thinking,
    TurnCancelled,
    TurnFailed,
    TurnInterrupted,
    to_json,
)
from shared.reply import Fold, Picture, Reply

_CANCEL_S = 3.0


async def print_reply(client: ChatClient, ask: Ask, *, raw: bool) -> int:
    """Send a message and print the reply as it arrives. ``raw``: one JSON object a line. Returns the exit status."""
    return await _cancelled_by_ctrl_c(client, ask, _print_reply(client.follow(ask), raw=raw))


async def save_picture(client: ChatClient, ask: Ask, out: Path | None, *, raw: bool) -> int:
    """Ask for a picture, write it to ``out`` (None: a new file named after the prompt), and print the file's name."""
    return await _cancelled_by_ctrl_c(client, ask, _save_picture(client.follow(ask), ask, out, raw=raw))


async def _cancelled_by_ctrl_c(client: ChatClient, ask: Ask, work: Coroutine[Any, Any, int]) -> int:
    """Run ``work``. Ctrl-C cancels the turn on the server, too."""
    task = asyncio.ensure_future(work)
    try:
        return await task
    except asyncio.CancelledError:
        # Plain REST tells the turn's id only at the end; starting the request again with its key gives the same turn.
        with contextlib.suppress(ChatError, ConnectionLost, TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await client.cancel((await client.start(ask)).turn_id)
        return fail("\ncancelled" if sys.stderr.isatty() else "cancelled", INTERRUPTED)


async def _print_reply(items: AsyncGenerator[Item, None], *, raw: bool) -> int:
    bad_end: str | None = None
    out, printed = _Stdout(), PrintedReply()
    try:
        async with aclosing(items), _ThinkingLine() as thinking:
            async for item in items:
                thinking.show(item)
                if isinstance(item, Lost | Reconnected | Rewound):
                    _notice(item)
                    if isinstance(item, Rewound):
                        printed.rewind()
                        out.write_rewound(item, raw=raw)
                elif raw:
                    out.write_json(to_json(item))
                elif isinstance(item, Chunk | Reply):
                    out.write(printed.add(item.text))
                bad_end = _bad_end(item) or bad_end
    finally:
        out.end()
    return fail(bad_end) if bad_end else DONE


class _Stdout:
    """Writes at once. A pipe or file gets every character; on a terminal no character of a model makes the terminal act."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._line_open = False
        self._held = ""

    def write(self, words: str) -> None:
        """Write a part of the reply."""
        if self._terminal:
            # CR LF may arrive in two pieces.
            words = self._held + words
            self._held = "\r" if words.endswith("\r") else ""
            words = text.visible(words.removesuffix(self._held))
        if words:
            self._line_open = not words.endswith("\n")
            # The bytes of a file name that are not UTF-8 go out as they are.
            write_stdout(words.encode(errors="surrogateescape"))

    def write_json(self, data: bytes) -> None:
        """Write one JSON object as a line."""
        write_stdout((text.json_visible(data).encode() if self._terminal else data) + b"\n")

    def write_rewound(self, item: Rewound, *, raw: bool) -> None:
        """Among JSON lines, say that the turn's events come again from seq 1."""
        if raw:
            told = {"type": "cursor_lost", "turn_id": item.turn_id, "after": item.after, "last_seq": item.last_seq}
            self.write_json(to_json(told))

    def end(self) -> None:
        """End the last line."""
        if self._line_open:
            self._line_open = False
            write_stdout(b"\n")


def _bad_end(item: Item) -> str | None:
    if isinstance(item, TurnFailed):
        return f"{item.code}: {item.message}"
    if isinstance(item, TurnCancelled) or (isinstance(item, Reply) and item.status == "cancelled"):
        return "cancelled: the turn was cancelled before its end; the partial answer is kept"
    if isinstance(item, TurnInterrupted) or (isinstance(item, Reply) and item.status == "interrupted"):
        return "interrupted: the server stopped in the middle of this turn; the rest was not generated, the partial answer is kept"
    return None


def _notice(item: Lost | Reconnected | Rewound) -> None:
    if isinstance(item, Lost):
        line = f"[lost {text.after_seq(item.after)}: {text.line(item.why)}]\n"
    elif isinstance(item, Rewound):
        line = f"[the store lost {text.plural(item.lost_events, 'event')}: the end of what is shown here is not kept]\n"
    else:
        on = f"going on after seq {item.after}" if item.after else "from the first event"
        line = f"[back after {item.elapsed_ms:.0f} ms, {on}]\n"
    # On a terminal the cursor may stand in the middle of the reply.
    sys.stderr.write(f"\n{line}" if sys.stderr.isatty() else line)


class _ThinkingLine:
    """On a terminal, ``thinking, 12 s`` from the event ``thinking`` to the next item."""

    def __init__(self) -> None:
        self._counting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end()

    def show(self, item: Item) -> None:
        """Begin the line, or remove it."""
        self._end()
        if isinstance(item, Thinking) and sys.stderr.isatty():
            self._counting = asyncio.create_task(self._count())

    def _end(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            self._counting = None
            _clear_line()

    async def _count(self) -> None:
        for elapsed_s in itertools.count():
            sys.stderr.write(f"\rthinking, {elapsed_s} s")
            sys.stderr.flush()
            await asyncio.sleep(1)


def _clear_line() -> None:
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


async def _save_picture(items: AsyncGenerator[Item, None], ask: Ask, out: Path | None, *, raw: bool) -> int:
    fold, picture, stdout = Fold(), None, _Stdout()
    async with aclosing(items):
        async for item in items:
            if isinstance(item, Lost | Reconnected | Rewound):
                _notice(item)
                if isinstance(item, Rewound):
                    fold, picture = Fold(), None
                    stdout.write_rewound(item, raw=raw)
                continue
            if raw:
                stdout.write_json(to_json(item))
            if isinstance(item, Picture):
                picture = item
            elif not isinstance(item, Reply):
                fold.add(item)
                _progress_of_picture(item, fold)
    picture = picture or fold.picture()
    path = out or free_name(ask.text, picture.mime_type)
    await asyncio.to_thread(path.write_bytes, picture.image)
    if raw:
        sys.stderr.write(f"{path}  {picture.width}x{picture.height}, {len(picture.image)} bytes\n")
    else:
        stdout.write(f"{path}\n")
    return DONE


def _progress_of_picture(item: Item, fold: Fold) -> None:
    if not sys.stderr.isatty():
        return
    if isinstance(item, ImageChunk):
        started, data = fold.pictures[item.image_id]
        what = "preview" if started.preview else "picture"
        sys.stderr.write(
            f"\r{what} {100 * len(data) // max(started.size_bytes, 1):3d} % of {started.size_bytes} bytes "
        )
        sys.stderr.flush()
    elif isinstance(item, ImageStarted | ImageCompleted):
        _clear_line()
