"""``python -m compare wire TRANSPORT``: one short turn's bytes, as they passed the relay, each with what it is.

Captured bytes only. They are cut into spans here, and what a span holds is checked against what a parser that is not ours (h11,
wsproto, hyperframe and hpack, protobuf) reads in the same bytes; every byte belongs to one span, and the sums are the relay's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import h11
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame
from rich.console import Console
from rich.text import Text
from wsproto.frame_protocol import FrameDecoder

from compare.lanes import LANES, Course, Running, running, take
from compare.relay import Piece, Relay, Way
from protocols.grpc import chat_pb2

# text: the tokens themselves; event: our fields around them, on every wire in its encoding; framing: what the protocol adds.
Kind = Literal["text", "event", "framing"]
KINDS: tuple[Kind, ...] = ("text", "event", "framing")
_STYLE = {"text": "bold green", "event": "", "framing": "cyan"}
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEX_BYTES = 12
_TEXT_KEY = b'"text":"'


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes and what they are."""

    data: bytes
    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class Unit:
    """What the wire sends as one: a head, a chunk, a frame; ``at`` is when its last byte passed, epoch ms."""

    at: float
    connection: int
    way: Way
    title: str
    spans: tuple[Span, ...]

    def size(self, kind: Kind | None = None) -> int:
        """Its bytes, all or of a kind."""
        return sum(len(span.data) for span in self.spans if kind in (None, span.kind))


class NotThat(Exception):
    """The bytes are not what they were taken for."""


def units(pieces: Sequence[Piece]) -> list[Unit]:
    """All units of a capture in the order in which they passed. Raises NotThat when our reading and the parsers' differ."""
    streams: dict[tuple[int, Way], _Stream] = {}
    for piece in pieces:
        streams.setdefault((piece.connection, piece.way), _Stream()).add(piece)
    found: list[Unit] = []
    for connection in sorted({number for number, _ in streams}):
        up, down = (streams.get((connection, way), _Stream()) for way in ("up", "down"))
        if up.data.startswith(_PREFACE):
            read = (*_http2("up", up), *_http2("down", down))
        else:
            read = (*_http1("up", up), *_http1("down", down))
        found += [Unit(at, connection, way, title, tuple(spans)) for way, at, title, spans in read]
    return sorted(found, key=lambda unit: unit.at)


class _Stream:
    """One way of one connection, and when each byte of it passed."""

    def __init__(self) -> None:
        self.data = b""
        self._marks: list[tuple[int, float]] = []

    def add(self, piece: Piece) -> None:
        self.data += piece.data
        self._marks.append((len(self.data), piece.at))

    def at(self, end: int) -> float:
        """When the byte before ``end`` passed."""
        return next(at for mark, at in self._marks if mark >= end)


Read = tuple[Way, float, str, list[Span]]


# -- events ------------------------------------------------------------------------------------------------------------------


def _json_spans(data: bytes, what: str) -> list[Span]:
    """A JSON object: our fields, and the text in it."""
    start = data.find(_TEXT_KEY)
    if start < 0:
        return [Span(data, "event", what)]
    start += len(_TEXT_KEY)
    end = start
    while data[end] != 0x22:
        end += 2 if data[end] == 0x5C else 1
    if json.loads(b'"' + data[start:end] + b'"') != json.loads(data)["text"]:
        raise NotThat("the text of an event is not where it was looked for")
    return [
        Span(data[:start], "event", what),
        Span(data[start:end], "text", "the token, JSON-escaped"),
        Span(data[end:], "event", "end of the event"),
    ]


def _type_of(data: bytes) -> str:
    try:
        found = json.loads(data)
    except ValueError:
        return "body"
    return str(found.get("type", "body")) if isinstance(found, dict) else "body"


def _line_spans(body: bytes) -> Iterator[Span]:
    """NDJSON: an event a line."""
    for line in body.splitlines(keepends=True):
        if line == b"\n":
            yield Span(line, "framing", "blank line: heartbeat")
            continue
        yield from _json_spans(line[:-1], f"NDJSON line: {_type_of(line)}")
        yield Span(line[-1:], "framing", "LF ends the line")


def _sse_spans(body: bytes) -> Iterator[Span]:
    """Server-Sent Events: fields, then a blank line (WHATWG HTML, section 9.2)."""
    for line in body.splitlines(keepends=True):
        name, colon, value = line.partition(b": ")
        if line == b"\n":
            yield Span(line, "framing", "blank line dispatches the event")
        elif name == b"data" and colon:
            yield Span(b"data: ", "framing", "field data")
            yield from _json_spans(value[:-1], f"the event: {_type_of(value)}")
            yield Span(b"\n", "framing", "LF ends the field")
        elif not name.strip(b"\n") or line.startswith(b":"):
            yield Span(line, "framing", "comment: heartbeat")
        else:
            yield Span(line, "framing", f"field {name.decode()}")


# -- HTTP/1.1 (RFC 9112) and WebSocket (RFC 6455) ---------------------------------------------------------------------------


def _http1(way: Way, stream: _Stream) -> Iterator[Read]:
    data, at = stream.data, 0
    read_by_us = b""
    while at < len(data):
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4:
            raise NotThat("a head of HTTP/1.1 without its end")
        head = data[at:end]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        first = head.split(b"\r\n")[0].decode("latin-1")
        yield way, stream.at(end), first, [Span(head, "framing", "head: start line and fields")]
        at = end
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            yield from _frames(way, stream, at)
            return
        if headers.get(b"transfer-encoding") == b"chunked":
            while at < len(data):
                line = data.find(b"\r\n", at) + 2
                if line < 2:
                    raise NotThat("a chunk of HTTP/1.1 without its size")
                size = int(data[at : line - 2], 16)
                body = data[line : line + size]
                end = line + size + 2
                spans = [Span(data[at:line], "framing", f"chunk size, hexadecimal: {size} bytes follow")]
                if size:
                    spans += _body_spans(headers.get(b"content-type", b""), body)
                spans.append(Span(data[end - 2 : end], "framing", "CRLF ends the chunk"))
                yield way, stream.at(end), "chunk" if size else "last chunk", spans
                read_by_us += body
                at = end
                if not size:
                    break
        elif (length := int(headers.get(b"content-length", b"0"))) > 0:
            body = data[at : at + length]
            at += length
            read_by_us += body
            yield way, stream.at(at), "body", list(_body_spans(headers.get(b"content-type", b""), body))
    if read_by_us != _read_by_h11(way, data):
        raise NotThat("h11 reads another body")


def _body_spans(media_type: bytes, body: bytes) -> Iterator[Span]:
    if media_type.startswith(b"application/x-ndjson"):
        yield from _line_spans(body)
    elif media_type.startswith(b"text/event-stream"):
        yield from _sse_spans(body)
    elif b'"events":[' in body:
        at = body.index(b'"events":[') + len(b'"events":[')
        yield Span(body[:at], "event", "where the turn stands")
        decoder = json.JSONDecoder()
        text = body.decode()
        rest = text[len(body[:at].decode()) :]
        while not rest.startswith("]"):
            _, used = decoder.raw_decode(rest)
            event = rest[:used].encode()
            yield from _json_spans(event, f"event: {_type_of(event)}")
            rest = rest[used:]
            if rest.startswith(","):
                yield Span(b",", "event", "next event")
                rest = rest[1:]
        yield Span(rest.encode(), "event", "end of the body")
    else:
        yield from _json_spans(body, f"JSON: {_type_of(body)}")


def _read_by_h11(way: Way, data: bytes) -> bytes:
    """All bodies of one way, as h11 reads them."""
    body = b""
    while data:
        end = h11.Connection(h11.SERVER if way == "up" else h11.CLIENT)
        if way == "down":
            # A response is only read after a request of ours.
            end.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
            end.send(h11.EndOfMessage())
        end.receive_data(data)
        while not isinstance(event := end.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED):
                return body
            if isinstance(event, h11.Data):
                body += bytes(event.data)
        data = end.trailing_data[0]
    return body


def _frames(way: Way, stream: _Stream, at: int) -> Iterator[Read]:
    data = stream.data
    decoder = FrameDecoder(client=way == "down")
    while at < len(data):
        masked, length = data[at + 1] >> 7, data[at + 1] & 0x7F
        extra = {126: 2, 127: 8}.get(length, 0)
        if extra:
            length = int.from_bytes(data[at + 2 : at + 2 + extra], "big")
        start = at + 2 + extra + 4 * masked
        raw = data[start : start + length]
        decoder.receive_bytes(data[at : start + length])
        frame = decoder.process_buffer()
        if frame is None or not frame.frame_finished or len(frame.payload) != length:
            raise NotThat("wsproto reads another frame")
        payload = frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)  # type: ignore[arg-type]
        opcode = f"{'FIN, ' if data[at] & 0x80 else ''}opcode {data[at] & 0x0F} ({frame.opcode.name.lower()})"
        spans = [
            Span(data[at : at + 1], "framing", opcode),
            Span(data[at + 1 : at + 2 + extra], "framing", f"{'masked, ' if masked else ''}length {length}"),
        ]
        if masked:
            spans.append(Span(data[start - 4 : start], "framing", "mask key"))
        name = _type_of(payload) if payload.startswith(b"{") else frame.opcode.name.lower()
        if payload.startswith(b"{"):
            hidden = f"masked; it reads {_shorten(payload)}"
            spans += [Span(raw, "event", hidden)] if masked else _json_spans(payload, f"the event: {name}")
        elif payload:
            spans.append(Span(raw, "framing", f"its payload: {payload.hex(' ')}" if masked else "its payload"))
        yield way, stream.at(start + length), f"WebSocket frame, {name}", spans
        at = start + length


# -- HTTP/2 (RFC 9113) and gRPC on it ---------------------------------------------------------------------------------------


def _http2(way: Way, stream: _Stream) -> Iterator[Read]:
    data, at = stream.data, 0
    hpack = Decoder()
    if way == "up":
        at = len(_PREFACE)
        yield way, stream.at(at), "HTTP/2 connection preface", [Span(_PREFACE, "framing", "preface")]
    messages = b""
    while at < len(data):
        frame, length = Frame.parse_frame_header(memoryview(data[at : at + 9]))
        body = data[at + 9 : at + 9 + length]
        frame.parse_body(memoryview(body))
        name = type(frame).__name__.removesuffix("Frame").upper()
        flags = f", {'+'.join(sorted(frame.flags))}" if frame.flags else ""
        spans = [Span(data[at : at + 9], "framing", f"{name} frame, {length} bytes, stream {frame.stream_id}{flags}")]
        if isinstance(frame, DataFrame) and body:
            messages += body
            whole, messages = _grpc_spans(way, messages)
            spans += whole
            if messages:
                raise NotThat("a gRPC message over several DATA frames: take fewer tokens")
        elif isinstance(frame, HeadersFrame):
            fields = ", ".join(f"{key!s}: {value!s}" for key, value in hpack.decode(frame.data, raw=False))
            spans.append(Span(body, "framing", f"HPACK: {fields}"))
        elif body:
            spans.append(Span(body, "framing", "its payload"))
        at += 9 + length
        yield way, stream.at(at), f"HTTP/2 {name}", spans


def _grpc_spans(way: Way, data: bytes) -> tuple[list[Span], bytes]:
    """Length-prefixed messages (gRPC over HTTP/2); what is left is the start of the next."""
    spans: list[Span] = []
    while len(data) >= 5:
        length = int.from_bytes(data[1:5], "big")
        if len(data) < 5 + length:
            break
        message = data[5 : 5 + length]
        compressed = "compressed" if data[0] else "not compressed"
        spans.append(Span(data[:5], "framing", f"gRPC prefix: {compressed}, message of {length} bytes"))
        kind = chat_pb2.Event if way == "down" else chat_pb2.SendMessageRequest
        fields = list(_protobuf_spans(message, kind.DESCRIPTOR))
        read = kind.FromString(message)
        if read.SerializeToString() != message or b"".join(span.data for span in fields) != message:
            raise NotThat("protobuf reads another message")
        spans += fields
        data = data[5 + length :]
    return spans, data


def _protobuf_spans(data: bytes, of: Descriptor, inside: str = "") -> Iterator[Span]:
    """Tag by tag (protobuf.dev, Encoding); nested messages are opened."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        field: FieldDescriptor = of.fields_by_number[tag >> 3]
        name = f"{inside}{field.name}"
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield Span(data[start:at], "event", f"field {tag >> 3} {name} = {value}, tag and varint")
            case 1:
                at += 8
                yield Span(data[start:at], "event", f"field {tag >> 3} {name}, tag and 8 bytes")
            case 2:
                length, at = _varint(data, at)
                yield Span(data[start:at], "event", f"field {tag >> 3} {name}, tag and length {length}")
                body = data[at : at + length]
                at += length
                if field.message_type is not None:
                    yield from _protobuf_spans(body, field.message_type, f"{name}.")
                elif name == "chunk.text":
                    yield Span(body, "text", "the token, UTF-8")
                else:
                    yield Span(body, "event", "its value")
            case wire_type:
                raise NotThat(f"protobuf wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


# -- what is printed -----------------------------------------------------------------------------------------------------------


def show(console: Console, found: Sequence[Unit], relay: Relay) -> None:
    """Every unit with its spans, then the sums."""
    begun = found[0].at
    for unit in found:
        arrow = "→ server" if unit.way == "up" else "← server"
        parts = ", ".join(f"{kind} {unit.size(kind)}" for kind in KINDS if unit.size(kind))
        console.print()
        console.print(
            Text.assemble(
                (f"{unit.at - begun:8.1f} ms  {arrow}  ", "dim"),
                (unit.title, "bold"),
                f"  {unit.size()} B: {parts}",
                ("" if not unit.connection else f"  (connection {unit.connection + 1})", "dim"),
            ),
            soft_wrap=True,
        )
        for span in unit.spans:
            shown = " ".join(f"{byte:02x}" for byte in span.data[:_HEX_BYTES])
            shown += " …" if len(span.data) > _HEX_BYTES else ""
            line = Text.assemble(
                f"  {len(span.data):>6} B  ",
                (f"{shown:<{_HEX_BYTES * 3 + 2}}", "dim"),
                (f"{span.kind:<8} ", _STYLE[span.kind]),
                (span.what, _STYLE[span.kind]),
            )
            if span.kind != "framing" or _readable(span.data):
                line.append(f"  {_shorten(span.data)}", style="dim")
            console.print(line, soft_wrap=True)
    console.print()
    for way, counted in (("up", relay.up_bytes), ("down", relay.down_bytes)):
        mine = [unit for unit in found if unit.way == way]
        total = sum(unit.size() for unit in mine)
        parts = ", ".join(
            f"{kind} {size} ({size / total:.0%})" for kind in KINDS if (size := sum(unit.size(kind) for unit in mine))
        )
        if total != counted:
            raise NotThat(f"the spans are {total} bytes, the relay counted {counted}")
        where = "to the server" if way == "up" else "to the client"
        console.print(f"{where}: {total} B of TCP payload, as the relay counted: {parts}", markup=False, soft_wrap=True)


def _readable(data: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\r\n" for byte in data)


def _shorten(data: bytes, most: int = 72) -> str:
    text = repr(data.decode("utf-8", "backslashreplace"))[1:-1]
    return text if len(text) <= most else f"{text[: most - 30]} … {text[-28:]}"


# -- the command -----------------------------------------------------------------------------------------------------------------


async def capture(name: str, *, tokens: int, rate: float, message: str) -> tuple[Relay, list[Unit]]:
    """Play one short turn on a lane, and cut what passed into units."""
    async with running([name], rate=rate) as lanes:
        lane = lanes[name]
        async with Relay(lane.server.address, capture=True) as relay:
            through = Running(lane.lane, lane.server, relay.address, relay)
            async with through.client() as client:
                taken = await take(through, client, Course(experiment="wire", message=message, tokens=tokens))
        if taken.error is not None:
            raise RuntimeError(f"the turn failed: {taken.error}")
        return relay, units(relay.captured)


def main(argv: Sequence[str] | None = None) -> int:
    """Print one turn's bytes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m compare wire", description=__doc__.partition("\n\n")[0])
    parser.add_argument("transport", choices=LANES)
    parser.add_argument("--tokens", type=int, default=4, metavar="N", help="length of the answer (default: 4)")
    parser.add_argument(
        "--rate",
        type=float,
        default=20.0,
        metavar="N",
        help="tokens a second; 0 shows what is sent together (default: 20)",
    )
    parser.add_argument("--message", default="Hi", help="what is asked")
    args = parser.parse_args(argv)
    if not 0 < args.tokens <= 200:
        parser.error("--tokens: from 1 to 200")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        relay, found = asyncio.run(capture(args.transport, tokens=args.tokens, rate=args.rate, message=args.message))
        show(console, found, relay)
    except (RuntimeError, OSError, NotThat) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
