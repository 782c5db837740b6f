"""The footer: the rows between the scrollback and the input line while something happens, and the prompt."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.text import Text

from shared.client import text
from shared.client.shell.active_client import ActiveClient
from shared.client.shell.current_session import CurrentSession
from shared.client.shell.painter import Painter
from shared.client.shell.shown_turn import ShownTurn
from shared.client.shell.turns import ASKED, Turns
from shared.session import short

SPIN_S = 0.1
HINT = "a message, or /help"
_BAR_CELLS = 24
_QUEUED_SHOWN = 3
# Each state has a sign of its own, for those who see no colours.
_DOTS = {"up": ("fg:ansigreen", "●"), "down": ("fg:ansired", "×"), "idle": ("fg:ansibrightblack", "○")}


def spinner() -> str:
    """A sign that turns with time."""
    signs = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if (sys.stdout.encoding or "").lower().startswith("utf") else "|/-\\"
    return signs[int(time.monotonic() / SPIN_S) % len(signs)]


def prompt(
    active: ActiveClient, session: CurrentSession, shown: ShownTurn | None, question: str | None
) -> StyleAndTextTuples:
    """Session, transport and connection; or the question that waits for an answer."""
    if question is not None:
        return [("bold", f"{question} [y/N] ")]
    style, dot = _DOTS[active.state]
    if shown is not None and not shown.lost:
        dot = spinner()
    return [
        ("fg:ansibrightblack", short(session.session_id) if session.session_id else "new"),
        ("bold", f" {active.word} "),
        (style, dot),
        ("bold fg:ansicyan", f" {ASKED}"),
    ]


def live(painter: Painter, height: int, turns: Turns, session: CurrentSession, command: str) -> list[str]:
    """The rows above the prompt. When they do not fit into ``height``, the first rows of the reply are left out."""
    # On some terminals a full row and its newline make two rows.
    width = painter.width - 1
    below = [*_notices(painter, width, turns, session, command)]
    reply = _shown_turn(painter, width, turns.shown) if turns.shown is not None else []
    height_left = max(2, height - len(below))
    if len(reply) > height_left:
        reply = [_dim(painter, "⋮"), *reply[-(height_left - 1) :]]
    return reply + below


def _notices(painter: Painter, width: int, turns: Turns, session: CurrentSession, command: str) -> Iterator[str]:
    if session.someone_types:
        yield _dim(painter, "someone else is typing …")
    queued = [wanted for wanted in turns.waiting if wanted.ask is not None]
    for wanted in queued[:_QUEUED_SHOWN]:
        assert wanted.ask is not None
        yield _dim(painter, f"next {ASKED}{text.line(wanted.ask.text, width - 8)}")
    if len(queued) > _QUEUED_SHOWN:
        yield _dim(painter, f"     and {len(queued) - _QUEUED_SHOWN} more")
    if command:
        yield _dim(painter, f"{spinner()} {text.line(command, width - 3)}")


def _shown_turn(painter: Painter, width: int, shown: ShownTurn) -> list[str]:
    rows = [] if shown.kind == "image" else painter.tail(shown.reply_text.tail, width)
    if shown.kind == "image" and shown.preview:
        rows = ["", *shown.preview]
    state = _state(shown)
    return [*rows, "", _dim(painter, f"{spinner()} {text.line(state, width - 3)}")] if state else rows


def _state(shown: ShownTurn) -> str:
    """What the user waits for; empty while text arrives."""
    if shown.stopping:
        return "stopping"
    if shown.lost is not None:
        since = text.duration((time.perf_counter() - shown.lost_at) * 1000)
        return f"lost {text.after_seq(shown.lost.after)}, coming back · {since}"
    if shown.progress is not None:
        what, now, whole = shown.progress
        filled = _BAR_CELLS * now // max(whole, 1)
        bar = "█" * filled + "░" * (_BAR_CELLS - filled)
        return f"{what} {bar} {text.size(now)} of {text.size(whole)}"
    if not shown.sent:
        return "sending"
    if shown.first is None and shown.thinking is not None:
        return f"thinking, {time.perf_counter() - shown.thinking:.0f} s"
    if shown.first is None:
        return f"waiting for {_awaited(shown)} · {text.duration(shown.waited_ms)}"
    return ""


def _awaited(shown: ShownTurn) -> str:
    if shown.kind == "image":
        return "the picture"
    return "the first token" if shown.streams else "the whole reply"


def _dim(painter: Painter, words: str) -> str:
    return painter.rows(Text(words, style="dim", no_wrap=True, overflow="ellipsis"))[0]
