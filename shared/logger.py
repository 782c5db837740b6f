"""What a server logs: readable columns on a terminal, one JSON object a line elsewhere.

A key is never logged. Prompts and answers are logged only with ``--trace-text``.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO, cast

import msgspec

from shared.visible import visible, visible_line


class Logger(Protocol):
    """A structured logger: each line is an event and its fields. structlog's loggers are such loggers."""

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
    out = stream or sys.stderr
    return _column_logger(out, level) if out.isatty() else JsonLogger(out, transport, level)


def _column_logger(out: TextIO | io.TextIOBase, level: int) -> Logger:
    """Columns for a terminal, where the start text has named the transport."""
    # Imported here: the library imports rich with it, which is a tenth of a server's start.
    import structlog

    logger: Logger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, out)),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            lambda logger, name, fields: visible_values(fields),
            structlog.dev.ConsoleRenderer(
                pad_event_to=17,
                sort_keys=False,
                colors=sys.platform != "win32",
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return logger


class JsonLogger:
    """Writes one JSON object a line: the transport, the fields, the event, the level and the time (UTC)."""

    def __init__(self, out: TextIO | io.TextIOBase, transport: str, level: int) -> None:
        self._out = out
        self._transport = transport
        self._level = level

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, "info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, "warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, "error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, "error", event, fields | {"exception": traceback.format_exc().rstrip("\n")})

    def _write(self, number: int, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if number < self._level:
            return
        at = datetime.now(UTC)
        self._out.write(
            _ascii_json({"transport": self._transport, **fields, "event": event, "level": level, "timestamp": at})
            + "\n"
        )
        self._out.flush()


def _ascii_json(fields: Mapping[str, Any]) -> str:
    """A line of JSON in ASCII, because a log may be read in a terminal. An unknown object is written as its ``repr``."""
    data = msgspec.json.encode(fields, enc_hook=repr)
    # msgspec takes half the time of json, writes times as RFC 3339, and leaves characters beyond ASCII as they are.
    return data.decode() if data.isascii() else json.dumps(json.loads(data))


def visible_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a log line with every control character as a sign, for a terminal; a traceback keeps its lines."""
    return {
        name: (visible if name == "exception" else visible_line)(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
