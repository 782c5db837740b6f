"""The streamed bodies of NDJSON and SSE, read by their standards; SSE as WHATWG HTML section 9.2.6 interprets a stream."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from tests.conftest import Servers
from tests.raw_http import ask


@dataclass
class Message:
    """One message that a browser dispatches."""

    event: str
    data: str
    last_event_id: str


@dataclass
class EventStream:
    """What a browser reads from a stream: the messages it dispatches, its reconnection time, the comments it ignores."""

    messages: list[Message] = field(default_factory=list)
    retry_ms: list[int] = field(default_factory=list)
    comments: int = 0


def interpret(stream: bytes) -> EventStream:
    """A whole stream as a browser reads it. A field that browsers would ignore fails the test."""
    found = EventStream()
    text = stream.decode("utf-8").removeprefix("\ufeff")
    *lines, incomplete = re.split("\r\n|\n|\r", text)
    assert incomplete == "", "the stream ends inside a line"
    data: list[str] = []
    event = last_event_id = ""
    for line in lines:
        if line == "":
            if data:
                found.messages.append(Message(event or "message", "\n".join(data), last_event_id))
            data, event = [], ""
            continue
        if line.startswith(":"):
            found.comments += 1
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_event_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            found.retry_ms.append(int(value))
        else:
            raise AssertionError(f"a field that browsers ignore: {line}")
    assert not data, "the stream ends inside an event"
    return found


def events_of(word: str, body: bytes) -> list[dict[str, Any]]:
    """The events in a streamed body, read by the standard of its wire."""
    if word == "ndjson":
        assert body.endswith(b"\n") or not body
        return [json.loads(line) for line in body.split(b"\n") if line]
    found = interpret(body)
    events = []
    for message in found.messages:
        event = json.loads(message.data)
        assert message.event == event["type"]
        assert message.last_event_id == f"{event['turn_id']}/{event['seq']}"
        events.append(event)
    return events


async def log(servers: Servers, turn_id: str) -> list[dict[str, Any]]:
    """The events of a turn by long-polling: another route and another framing than the streams have."""
    events: list[dict[str, Any]] = (await ask(servers, "rest", "GET", f"/turns/{turn_id}/events")).json["events"]
    return events


def with_separators() -> str:
    """A message whose reply has U+2028 and U+0085 in it."""
    for n in count():
        message = f"Explain it, please ({n})."
        if "\u2028" in "".join(reply_tokens([ContextMessage("user", message)])):
            return message
    raise AssertionError


def whole_events(body: bytes) -> bytes:
    """The whole events of a body that has not ended: to the last blank line of SSE, to the last line of NDJSON."""
    end = body.rfind(b"\n\n") + 2 if b"\ndata:" in body or body.startswith(b"retry") else body.rfind(b"\n") + 1
    return body[:end]
