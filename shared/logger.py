"""The server's terminal: a banner and a line per stage on a terminal, JSON lines elsewhere.

Never a key, a prompt or an answer; prompts and answers only where ``--trace-text`` was given.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Any, Protocol, TextIO


class Logger(Protocol):
    """A structured logger (structlog's): an event and its fields."""

    def info(self, event: str, **fields: Any) -> Any:
        """A stage."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Something an operator may want to know."""

    def error(self, event: str, **fields: Any) -> Any:
        """Something that went wrong."""

    def exception(self, event: str, **fields: Any) -> Any:
        """The same, with the traceback."""


@dataclass(frozen=True, slots=True)
class Trace:
    """How much the operator asked to see: every event (``--trace``), texts too (``--trace-text``)."""

    events: bool = False
    text: bool = False


def short(identifier: str | None) -> str:
    """The first eight characters of an id, as the log shows sessions and turns."""
    return identifier[:8] if identifier else "-"


def open_logger(transport: str, stream: TextIO | None = None, level: int = logging.INFO) -> Logger:
    """A logger bound to one transport: readable columns on a terminal, one JSON object a line where there is none."""
    # Clients import this module too, for names; only a server pays for the library.
    import structlog

    out = stream or sys.stderr
    processors: list[Any] = [structlog.processors.add_log_level]
    if out.isatty():
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(pad_event_to=17, sort_keys=False, colors=sys.platform != "win32"),
        ]
    else:
        processors += [structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()]
    log = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    # On a terminal the banner has said which transport this is.
    bound: Logger = log if out.isatty() else log.bind(transport=transport)
    return bound
