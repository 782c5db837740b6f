"""What a server logs: readable columns on a terminal, one JSON object a line elsewhere.

A key is never logged. Prompts and answers are logged only with ``--trace-text``.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, cast

import msgspec

from shared.visible import visible, visible_line


class Logger(Protocol):
    """A structured logger (structlog's): each line is an event and its fields."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log a step of normal work."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log what an operator may want to know."""

    def error(self, event: str, **fields: Any) -> Any:
        """Log what went wrong."""

    def exception(self, event: str, **fields: Any) -> Any:
        """Log what went wrong, with the traceback of the exception that is being handled."""


@dataclass(frozen=True, slots=True)
class Trace:
    """How much a server logs: every event (``--trace``), and prompts and answers too (``--trace-text``)."""

    events: bool = False
    text: bool = False


def open_logger(transport: str, stream: TextIO | io.TextIOBase | None = None, level: int = logging.INFO) -> Logger:
    """A logger for one transport's server, on ``stream`` or else on stderr."""
    # Imported here, because clients import this module for its names and do without the library.
    import structlog

    out = stream or sys.stderr
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    if out.isatty():
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            lambda logger, name, fields: visible_values(fields),
            structlog.dev.ConsoleRenderer(
                pad_event_to=17,
                sort_keys=False,
                colors=sys.platform != "win32",
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=_ascii_json),
        ]
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, out)),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    # On a terminal the start text has named the transport.
    bound: Logger = logger if out.isatty() else logger.bind(transport=transport)
    return bound


def _ascii_json(fields: Mapping[str, Any], default: Callable[[Any], Any]) -> str:
    """A line of JSON in ASCII, because a log may be read in a terminal. ``default`` converts an unknown object."""
    data = msgspec.json.encode(fields, enc_hook=default)
    # msgspec takes half the time of json, and leaves characters beyond ASCII as they are.
    return data.decode() if data.isascii() else json.dumps(fields, default=default)


def visible_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a log line with every control character as a sign, for a terminal; a traceback keeps its lines."""
    return {
        name: (visible if name == "exception" else visible_line)(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
