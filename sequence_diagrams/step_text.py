"""The text of an arrow: a step in the words of its protocol, with the fields that a diagram shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from compare.lines.steps.step import Step

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEADERS = ("idempotency-key", "last-event-id", "sec-websocket-protocol", "location", "content-location", "turn_id")
_SHOWN = (
    "status",
    "message",
    "session_id",
    "turn_id",
    "after",
    "last_seq",
    "update_type",
    "message_count",
    "messages",
    "running_turn_id",
    "finish_reason",
    "usage",
    "text",
    "sha256",
    "code",
)
_LONG_CHARS = 40
_LINE_CHARS = 52


def step_text(word: str, step: Step) -> str:
    """A step in the words of its protocol."""
    heads = [
        f"{name}: {_short(value)}"
        for name, value in step.headers
        if name.lower() in _HEADERS and step.kind in ("request", "response")
    ]
    match step.kind:
        case "event" if word == "grpc":
            if step.direction == "down" and "seq" in step.payload:
                return f"DATA Event {{{step.name}, seq {step.payload['seq']}}}"
            return f"DATA {step.name} {_fields(step.payload)}".rstrip()
        case "event" if word == "sse":
            return f"event: {step.name}<br/>id: {step.payload['turn_id']}/{step.payload['seq']}"
        case "event" if word == "websocket":
            seq = f", seq: {step.payload['seq']}" if "seq" in step.payload else ""
            fields = "" if seq else _fields(step.payload)[1:-1]
            inner = f"type: {step.name}{seq}" + (f", {fields}" if fields else "")
            return f"text frame{'<br/>' if len(inner) > _LONG_CHARS else ' '}{{{inner}}}"
        case "event":
            return f"{{type: {step.name}, seq: {step.payload['seq']}, …}} LF"
        case "heartbeat":
            return step.raw.decode().strip()
        case "end" if word == "grpc":
            return f"trailers {step.name}"
        case "end":
            return "the last HTTP chunk: the body ends"
        case "close" if word == "websocket":
            return f"close frame {step.name.removeprefix('close ')}".rstrip()
        case "request" if word == "grpc":
            return f"HEADERS {step.name.rpartition('.')[2]}"
        case "response" if word == "grpc":
            return " ".join(["HEADERS", step.name, *heads])
        case "request" if any(name.lower() == "upgrade" for name, _ in step.headers):
            return "<br/>".join([f"{step.name}, Upgrade: websocket", *heads])
        case "response" if _streams(step):
            return "<br/>".join([f"{step.name}, {_header(step, 'content-type').partition(';')[0]}", *heads])
        case _:
            body = _fields(step.payload) if step.payload else ""
            return "<br/>".join(part for part in (step.name, *heads, body) if part)


def _streams(step: Step) -> bool:
    return _header(step, "content-type").startswith(("application/x-ndjson", "text/event-stream"))


def _header(step: Step, wanted: str) -> str:
    return next((value for name, value in step.headers if name.lower() == wanted), "")


def _fields(payload: Any) -> str:
    """A body in short: the fields that a diagram shows."""
    if not isinstance(payload, dict):
        return ""
    event = payload.get("event")
    if isinstance(event, dict):
        payload = event
    shown = [f"{name}: {_value(payload[name])}" for name in _SHOWN if payload.get(name) not in (None, "", {}, [])]
    return f"{{{_wrapped(shown)}}}" if shown else ""


def _wrapped(parts: Sequence[str]) -> str:
    """The parts on lines that are short enough for an arrow."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(UUID.sub("{session}", lines[-1] + part)) > _LINE_CHARS:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + part
    return ",<br/>".join(lines)


def _value(value: Any) -> str:
    match value:
        case list():
            return f"{len(value)} of them"
        case dict():
            return "{…}"
        case str():
            return _short(value)
        case _:
            return str(value)


def _short(text: str) -> str:
    if UUID.search(text) or (text.isascii() and len(text) <= _LONG_CHARS):
        return text
    return "…"
