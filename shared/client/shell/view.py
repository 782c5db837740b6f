"""What stands between the scrollback and the input line while something happens, and the prompt itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.text import Text

from shared.client.shell import text
from shared.client.shell.answer import Answer
from shared.client.shell.link import Link
from shared.client.shell.paint import Paint
from shared.client.shell.room import Room
from shared.client.shell.turns import ASKED, Turns

SPIN_S = 0.1
HINT = "a message, or /help"
_BAR_CELLS = 24
_QUEUED_SHOWN = 3
_DOTS = {"up": ("fg:ansigreen", "●"), "down": ("fg:ansired", "●"), "idle": ("fg:ansibrightblack", "○")}


def spinner() -> str:
    """A sign that turns with the clock."""
    signs = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if (sys.stdout.encoding or "").lower().startswith("utf") else "|/-\\"
    return signs[int(time.monotonic() / SPIN_S) % len(signs)]


def prompt(link: Link, room: Room, answer: Answer | None, question: str | None) -> StyleAndTextTuples:
    """Session, transport, connection; or the question that waits for its answer."""
    if question is not None:
        return [("bold", f"{question} [y/N] ")]
    style, dot = _DOTS[link.state]
    if answer is not None and not answer.lost:
        dot = spinner()
    session = text.short(room.session_id) if room.session_id else "new"
    return [
        ("fg:ansibrightblack", session),
        ("bold", f" {link.word} "),
        (style, dot),
        ("bold fg:ansicyan", f" {ASKED}"),
    ]


def live(paint: Paint, height: int, turns: Turns, room: Room, command: str) -> list[str]:
    """The rows above the prompt, the newest last; when there are too many, the oldest of the reply stay away."""
    # One cell less than there is: a full row and its newline would be two rows on some terminals.
    width = paint.width - 1
    below = [*_notices(paint, width, turns, room, command)]
    reply = _answer(paint, width, turns.answer) if turns.answer is not None else []
    room_left = max(2, height - len(below))
    if len(reply) > room_left:
        reply = [_dim(paint, "⋮"), *reply[-(room_left - 1) :]]
    return reply + below


def _notices(paint: Paint, width: int, turns: Turns, room: Room, command: str) -> Iterator[str]:
    if room.someone_types:
        yield _dim(paint, "someone else is typing …")
    queued = [wanted for wanted in turns.waiting if wanted.ask is not None]
    for wanted in queued[:_QUEUED_SHOWN]:
        assert wanted.ask is not None
        yield _dim(paint, f"next {ASKED}{text.line(wanted.ask.text, width - 8)}")
    if len(queued) > _QUEUED_SHOWN:
        yield _dim(paint, f"     and {len(queued) - _QUEUED_SHOWN} more")
    if command:
        yield _dim(paint, f"{spinner()} {text.line(command, width - 3)}")


def _answer(paint: Paint, width: int, answer: Answer) -> list[str]:
    rows = [] if answer.kind == "image" else paint.tail(answer.blocks.tail, width)
    if answer.kind == "image" and answer.preview:
        rows = ["", *answer.preview]
    state = _state(answer)
    return [*rows, "", _dim(paint, f"{spinner()} {text.line(state, width - 3)}")] if state else rows


def _state(answer: Answer) -> str:
    """What one waits for; nothing while text comes."""
    if answer.stopping:
        return "stopping"
    if answer.lost is not None:
        since = text.duration((time.perf_counter() - answer.lost_at) * 1000)
        return f"lost after seq {answer.lost.after}, coming back · {since}"
    if answer.progress is not None:
        what, now, whole = answer.progress
        filled = _BAR_CELLS * now // max(whole, 1)
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        return f"{what} {bar} {text.size(now)} of {text.size(whole)}"
    if not answer.sent:
        return "sending"
    if answer.first is None and answer.thinking is not None:
        return f"thinking, {time.perf_counter() - answer.thinking:.0f} s"
    if answer.first is None:
        what = "the picture" if answer.kind == "image" else "the first token"
        return f"waiting for {what} · {text.duration(answer.waited_ms)}"
    return ""


def _dim(paint: Paint, words: str) -> str:
    return paint.rows(Text(words, style="dim", no_wrap=True, overflow="ellipsis"))[0]
