"""The spans of HTTP/1.1 (RFC 9112), compared with h11; after 101 those of the WebSocket (RFC 6455)."""

from __future__ import annotations

from collections.abc import Iterator

import h11

from compare.lines.capture import Direction
from compare.lines.spans.events import body_spans
from compare.lines.spans.span import ByteStream, Span, UnexpectedBytes, WireUnit
from compare.lines.spans.websocket import frame_units


def http1_units(stream: ByteStream) -> Iterator[WireUnit]:
    """The heads, bodies and chunks of one direction."""
    data, at = stream.data, 0
    bodies = b""
    while at < len(data):
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4:
            raise UnexpectedBytes("a head of HTTP/1.1 without its end")
        head = data[at:end]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        start_line = head.split(b"\r\n")[0].decode("latin-1")
        yield stream.unit(end, start_line, [Span(head, "framing", "head: start line and fields")])
        at = end
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            yield from frame_units(stream, at)
            return
        media_type = headers.get(b"content-type", b"")
        if headers.get(b"transfer-encoding") == b"chunked":
            while at < len(data):
                line = data.find(b"\r\n", at) + 2
                if line < 2:
                    raise UnexpectedBytes("a chunk of HTTP/1.1 without its size")
                size = int(data[at : line - 2], 16)
                body = data[line : line + size]
                end = line + size + 2
                spans = [Span(data[at:line], "framing", f"chunk size, hexadecimal: {size} bytes follow")]
                if size:
                    spans += body_spans(media_type, body)
                spans.append(Span(data[end - 2 : end], "framing", "CRLF ends the chunk"))
                yield stream.unit(end, "chunk" if size else "last chunk", spans)
                bodies += body
                at = end
                if not size:
                    break
        elif (length := int(headers.get(b"content-length", b"0"))) > 0:
            body = data[at : at + length]
            at += length
            bodies += body
            yield stream.unit(at, "body", list(body_spans(media_type, body)))
    if bodies != _bodies_by_h11(stream.direction, data):
        raise UnexpectedBytes("h11 reads another body")


def _bodies_by_h11(direction: Direction, data: bytes) -> bytes:
    """All bodies of one direction, as h11 reads them."""
    bodies = b""
    while data:
        endpoint = h11.Connection(h11.SERVER if direction == "up" else h11.CLIENT)
        if direction == "down":
            # h11 reads a response only after it has sent a request.
            endpoint.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
            endpoint.send(h11.EndOfMessage())
        endpoint.receive_data(data)
        while not isinstance(event := endpoint.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED):
                return bodies
            if isinstance(event, h11.Data):
                bodies += bytes(event.data)
        data = endpoint.trailing_data[0]
    return bodies
