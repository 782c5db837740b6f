"""The end of the demo: each transport is compared with the model and with the other transports, and the table is printed."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from protocols import TRANSPORTS
from protocols.demo_view import TransportRun
from protocols.live import say
from shared.config import Settings
from shared.events import AnyEvent
from shared.images.offline import OfflineImages
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from shared.reply import Picture

# These fields differ between two runs of the same turn: ids and times.
_DIFFERENT_FIELDS = frozenset({"turn_id", "session_id", "image_id", "request_id", "at", "elapsed_ms"})
_NO_DIFFERENCE_MS = 20.0
_CHECKED = ("text", "log", "picture")
# Each column with its heading, and whether it has numbers.
_COLUMNS = {
    "transport": ("transport", False),
    "first": ("first\ntoken ms", True),
    "whole": ("whole\nreply ms", True),
    "picture_ms": ("picture\nms", True),
    "received": ("received", True),
    "bytes": ("bytes", True),
    "text": ("text\nequal", False),
    "log": ("log\nequal", False),
    "picture": ("picture\nequal", False),
}
# A terminal that is not so wide shows these columns; what differs is named below the table in any case.
_WIDE = 72
_NARROW = ("transport", "first", "whole", "log")


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the offline models say and draw without any transport: a text for each message, and the SHA-256 of the picture."""

    texts: list[str]
    sha256: str


async def model_output(
    settings: Settings, messages: Sequence[str], prompt: str, picture: Picture | None
) -> ModelOutput:
    """Ask the offline models in this process; ``picture`` gives the size that is drawn."""
    history: list[ContextMessage] = []
    texts = []
    for message in messages:
        history.append(ContextMessage("user", message))
        texts.append("".join(reply_tokens(history, settings.offline_tokens)))
        history.append(ContextMessage("model", texts[-1]))
    sha256 = ""
    if picture is not None:
        at_once = settings.model_copy(update={"offline_tokens_per_s": 0.0, "offline_first_token_ms": 0.0})
        async for part in OfflineImages(at_once).generate(prompt, picture.width, picture.height):
            sha256 = hashlib.sha256(part.data).hexdigest()
    return ModelOutput(texts, sha256)


def compare_runs(runs: Mapping[str, TransportRun], model: ModelOutput, replies: int) -> None:
    """Note in each run where it differs from the model, from the first run's log, or from its own log.

    ``replies`` is the number of turns before the picture.
    """
    reference = [_comparable(event) for event in next(iter(runs.values())).log]
    for run in runs.values():
        if run.texts != model.texts[:replies]:
            run.differs["text"] = "not what the model said"
        if run.picture is None or hashlib.sha256(run.picture.image).hexdigest() != model.sha256:
            run.differs["picture"] = "not what the model drew"
        log = [_comparable(event) for event in run.log]
        if not log or log != reference:
            at = next((i for i, pair in enumerate(zip(log, reference, strict=False)) if pair[0] != pair[1]), None)
            other = (
                f"event {at + 1} of {len(log)} is another one"
                if at is not None
                else f"{len(log)} events, not {len(reference)}"
            )
            run.differs["log"] = other
        elif run.live and run.live != run.log:
            run.differs["log"] = "read again, it is not what was seen live"


def _comparable(event: AnyEvent) -> dict[str, Any]:
    """The fields of an event that are the same on every transport."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in _DIFFERENT_FIELDS}


def show_runs(console: Console, runs: Mapping[str, TransportRun], settings: Settings, replies: int) -> None:
    """Print the table, how its times are measured, and what they mean; ``replies`` is the number of turns before the picture."""
    shown = _COLUMNS if console.width >= _WIDE else {name: _COLUMNS[name] for name in _NARROW}
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading, numeric in shown.values():
        table.add_column(heading, justify="right" if numeric else "left")
    for run in runs.values():
        cells = {
            "transport": f"[bold]{run.label}[/]",
            "first": _median_ms(run.first_ms[:replies]),
            "whole": _median_ms(run.total_ms[:replies]),
            "picture_ms": _median_ms(run.total_ms[replies:]),
            "received": f"{run.whole} replies" if run.whole else f"{len(run.live)} events",
            "bytes": f"{run.bytes:,}",
        } | {what: "no" if what in run.differs or "run" in run.differs else "yes" for what in _CHECKED}
        table.add_row(*(cells[name] for name in shown))
    console.print(table)
    rate = f"{settings.offline_tokens_per_s:g} tokens a second" if settings.offline_tokens_per_s else "no pauses"
    say(
        console,
        f"\nFirst token and whole reply: median of {replies} turns, from the call to the client; in them is the model's own "
        f"{settings.offline_first_token_ms:g} ms to its first token, then {rate}.\n"
        "Bytes: bodies and frames of all four turns, as far as each client's library shows them. Log: every event of every "
        "turn, read again from its start.",
    )
    for run in runs.values():
        if not TRANSPORTS[run.word].tokens:
            say(console, f"{TRANSPORTS[run.word].title} sends one whole reply, so its first token is its last.")
    _show_spread(console, [run.first_ms[:replies] for run in runs.values() if TRANSPORTS[run.word].tokens])


def _show_spread(console: Console, first_ms: Sequence[Sequence[float]]) -> None:
    """Say how far the first tokens of the streaming transports lie apart, and that this is no ranking."""
    medians = [statistics.median(values) for values in first_ms if values]
    if len(medians) < 2:
        return
    spread_ms = max(medians) - min(medians)
    meaning = (
        "on one run of one machine that is no difference"
        if spread_ms < _NO_DIFFERENCE_MS
        else "five servers and clients shared this machine, so this is no ranking"
    )
    say(console, f"The first tokens of the other {len(medians)} lie within {spread_ms:.0f} ms: {meaning}.")


def _median_ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "-"
