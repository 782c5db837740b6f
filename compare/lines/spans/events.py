"""The spans of the chat's events: JSON objects, lines of JSON, Server-Sent Events, and the one JSON answer of REST."""

from __future__ import annotations

import json
from collections.abc import Iterator

from compare.lines.spans.span import Span, UnexpectedBytes

_TEXT_KEY = b'"text":"'
_EVENTS_KEY = b'"events":['


def json_spans(data: bytes, meaning: str) -> list[Span]:
    """One JSON object, with its text as a span."""
    start = data.find(_TEXT_KEY)
    if start < 0:
        return [Span(data, "event", meaning)]
    start += len(_TEXT_KEY)
    end = start
    while data[end] != 0x22:
        end += 2 if data[end] == 0x5C else 1
    if json.loads(b'"' + data[start:end] + b'"') != json.loads(data)["text"]:
        raise UnexpectedBytes("the text of an event does not stand where it was searched")
    return [
        Span(data[:start], "event", meaning),
        Span(data[start:end], "text", "the token, JSON-escaped"),
        Span(data[end:], "event", "end of the event"),
    ]


def type_of(data: bytes) -> str:
    """The ``type`` of an event in JSON; ``body`` for other data."""
    try:
        found = json.loads(data)
    except ValueError:
        return "body"
    return str(found.get("type", "body")) if isinstance(found, dict) else "body"


def body_spans(media_type: bytes, body: bytes) -> Iterator[Span]:
    """The spans of an HTTP body, or of one chunk of it."""
    if media_type.startswith(b"application/x-ndjson"):
        yield from _ndjson_spans(body)
    elif media_type.startswith(b"text/event-stream"):
        yield from _sse_spans(body)
    elif _EVENTS_KEY in body:
        yield from _poll_spans(body)
    else:
        yield from json_spans(body, f"JSON: {type_of(body)}")


def _ndjson_spans(body: bytes) -> Iterator[Span]:
    """NDJSON: one event a line."""
    for line in body.splitlines(keepends=True):
        if line == b"\n":
            yield Span(line, "framing", "blank line: heartbeat")
            continue
        yield from json_spans(line[:-1], f"NDJSON line: {type_of(line)}")
        yield Span(line[-1:], "framing", "LF ends the line")


def _sse_spans(body: bytes) -> Iterator[Span]:
    """Server-Sent Events: fields, then a blank line (WHATWG HTML, section 9.2)."""
    for line in body.splitlines(keepends=True):
        name, colon, value = line.partition(b": ")
        if line == b"\n":
            yield Span(line, "framing", "blank line dispatches the event")
        elif name == b"data" and colon:
            yield Span(b"data: ", "framing", "field data")
            yield from json_spans(value[:-1], f"the event: {type_of(value)}")
            yield Span(b"\n", "framing", "LF ends the field")
        elif not name.strip(b"\n") or line.startswith(b":"):
            yield Span(line, "framing", "comment: heartbeat")
        else:
            yield Span(line, "framing", f"field {name.decode()}")


def _poll_spans(body: bytes) -> Iterator[Span]:
    """An answer of ``GET /turns/{turn_id}/events``: the state of the turn, and an array of events."""
    at = body.index(_EVENTS_KEY) + len(_EVENTS_KEY)
    yield Span(body[:at], "event", "state of the turn")
    decoder = json.JSONDecoder()
    rest = body.decode()[len(body[:at].decode()) :]
    while not rest.startswith("]"):
        _, length = decoder.raw_decode(rest)
        event = rest[:length].encode()
        yield from json_spans(event, f"event: {type_of(event)}")
        rest = rest[length:]
        if rest.startswith(","):
            yield Span(b",", "event", "next event")
            rest = rest[1:]
    yield Span(rest.encode(), "event", "end of the body")
