"""The spans of WebSocket frames (RFC 6455, section 5.2), compared with wsproto."""

from __future__ import annotations

from collections.abc import Iterator

from wsproto.frame_protocol import FrameDecoder

from compare.lines.spans.events import json_spans, type_of
from compare.lines.spans.span import ByteStream, Span, UnexpectedBytes, WireUnit, shorten


def frame_units(stream: ByteStream, at: int) -> Iterator[WireUnit]:
    """The frames of one direction, from position ``at`` on."""
    data = stream.data
    decoder = FrameDecoder(client=stream.direction == "down")
    while at < len(data):
        masked, length = data[at + 1] >> 7, data[at + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        start = at + 2 + extended + 4 * masked
        raw = data[start : start + length]
        decoder.receive_bytes(data[at : start + length])
        frame = decoder.process_buffer()
        if frame is None or not frame.frame_finished or len(frame.payload) != length:
            raise UnexpectedBytes("wsproto reads another frame")
        payload = frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)  # type: ignore[arg-type]
        opcode = f"{'FIN, ' if data[at] & 0x80 else ''}opcode {data[at] & 0x0F} ({frame.opcode.name.lower()})"
        spans = [
            Span(data[at : at + 1], "framing", opcode),
            Span(data[at + 1 : at + 2 + extended], "framing", f"{'masked, ' if masked else ''}length {length}"),
        ]
        if masked:
            spans.append(Span(data[start - 4 : start], "framing", "mask key"))
        name = type_of(payload) if payload.startswith(b"{") else frame.opcode.name.lower()
        if payload.startswith(b"{"):
            unmasked = f"masked; unmasked: {shorten(payload)}"
            spans += [Span(raw, "event", unmasked)] if masked else json_spans(payload, f"the event: {name}")
        elif payload:
            spans.append(Span(raw, "framing", f"payload, unmasked: {payload.hex(' ')}" if masked else "payload"))
        yield stream.unit(start + length, f"WebSocket frame, {name}", spans)
        at = start + length
