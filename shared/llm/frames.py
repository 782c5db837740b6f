"""The frames of a provider's streamed answer: server-sent events, as HTML 9.2.6 reads them, with JSON as their data.

Servers and the gateways before them differ, so this reader also accepts what the standard allows and an SDK may not
(comments, ``event:`` lines, a byte order mark, any line end, no blank after ``data:``), events without the empty line
between them, one JSON value a line, and one whole JSON answer from a server that did not stream.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.llm.checked import NotAnAnswer

_DONE = "[DONE]"
_BOM = b"\xef\xbb\xbf"
# Python refuses to convert a number of more digits than 4,300. A number this long is no count, and its value is not needed.
_MOST_DIGITS = 100
# The types of events whose data is part of an answer. A gateway sends others, such as ``ping``, to keep the line open.
_ANSWER_EVENTS = ("", "message", "error")


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of an answer.

    ``value`` is its JSON, of any type; None where bytes came that made no whole frame, which is still a sign of life.
    ``event`` is the event's type where one was named. ``done``: the answer is whole, because the server said so (``DONE``) or
    because it was one JSON value (``WHOLE``).
    """

    value: Any = None
    event: str = ""
    done: bool = False


ALIVE = Frame()
DONE = Frame(done=True)
WHOLE = Frame(event="whole", done=True)


async def read_frames(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncGenerator[Frame, None]:
    """The frames in the body of an answer, at least one for every piece of bytes that arrives.

    ``max_bytes`` limits one frame. Raises NotAnAnswer, and what reading ``chunks`` raises.
    """
    body = _Body(max_bytes)
    async for chunk in chunks:
        frame = None
        for frame in body.feed(chunk):
            yield frame
        if frame is None:
            yield ALIVE
    for frame in body.finish():
        yield frame


class _Body:
    """Reads a body as far as it has come. Its first visible character decides: JSON, or lines of server-sent events."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._json: bool | None = None
        self._line = bytearray()
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._values = 0
        self._several_lines = False

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that are whole with these bytes; those before bytes that cannot be read come first."""
        if self._json is None:
            self._line += chunk
            chunk = bytes(self._line).removeprefix(_BOM).lstrip()
            if not chunk or _BOM.startswith(chunk):
                return
            if chunk.startswith(b"<"):
                raise NotAnAnswer("a web page instead of an answer", web_page=True)
            self._json = chunk.startswith((b"{", b"["))
            self._line.clear()
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") if chunk else self._after_cr
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line
            yield from self._json_line() if self._json else self._event_line()
        self._line += rest
        if len(self._line) + sum(map(len, self._data)) > self._max_bytes:
            raise NotAnAnswer(f"a frame is larger than {self._max_bytes} bytes")

    def finish(self) -> list[Frame]:
        """The frames at the end of the body."""
        if self._json:
            return self._last_json()
        frames = self._event_line() if self._line else []
        return [*frames, *self._dispatch()]

    def _event_line(self) -> list[Frame]:
        line = _decoded(self._line)
        self._line.clear()
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data" and not self._data:
            # A gateway may leave out the empty line that ends an event: a line that is JSON by itself is a whole event.
            frame = _frame(value, self._event)
            if frame is not None:
                self._event = ""
                return [frame]
            self._data.append(value)
        elif name == "data":
            self._data.append(value)
        return []

    def _dispatch(self) -> list[Frame]:
        data, event = "\n".join(self._data), self._event
        self._data, self._event = [], ""
        if not data.strip():
            return []
        frame = _frame(data, event)
        if frame is None and event in _ANSWER_EVENTS:
            raise NotAnAnswer("a frame is not JSON, or was cut")
        return [frame or ALIVE]

    def _json_line(self) -> list[Frame]:
        """A line that is a value by itself is a frame; the lines of a value that has several stay together to the end."""
        frame = None
        if not self._several_lines:
            text = _decoded(self._line)
            frame = _frame(text, "")
            self._several_lines = frame is None and bool(text.strip())
        if self._several_lines:
            self._line += b"\n"
        else:
            self._line.clear()
        self._values += frame is not None
        return [frame] if frame is not None else []

    def _last_json(self) -> list[Frame]:
        text = _decoded(self._line)
        frame = _frame(text, "")
        if frame is None and text.strip():
            raise NotAnAnswer("the answer is not JSON, or was cut")
        self._values += frame is not None
        # One value is a whole answer of a server that did not stream; several are a stream, which has an end of its own.
        end = [WHOLE] if self._values == 1 else []
        return [frame, *end] if frame is not None else end


def _decoded(line: bytearray) -> str:
    """A line as text. Bytes that are not UTF-8 stay (PEP 383), because the rest of a character may come in the next frame."""
    return line.decode("utf-8", "surrogateescape")


def _frame(text: str, event: str) -> Frame | None:
    """The frame with this text as its data; None where the text is not JSON."""
    if text.strip().startswith(_DONE):
        return DONE
    try:
        return Frame(_decoder.decode(text), event)
    except (ValueError, RecursionError):
        return None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float("inf")


# A control character inside a string is not allowed in JSON (RFC 8259, section 7), and some servers send a tab unescaped.
_decoder = json.JSONDecoder(parse_int=_integer, strict=False)
