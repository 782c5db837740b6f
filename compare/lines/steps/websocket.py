"""Steps of a WebSocket (RFC 6455), read by wsproto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wsproto.frame_protocol import FrameDecoder, Opcode

from compare.lines.capture import Direction
from compare.lines.steps.step import Step, StepKind


class FrameReader:
    """The messages of one direction."""

    def __init__(self, number: int, direction: Direction) -> None:
        self._number = number
        self._direction: Direction = direction
        # wsproto expects masked frames when it decodes as a server.
        self._decoder = FrameDecoder(client=direction == "down")
        self._payload = b""
        self._opcode: Opcode | None = None

    def read(self, at: float, data: bytes) -> Iterator[Step]:
        """The steps that these bytes complete."""
        if data:
            self._decoder.receive_bytes(data)
        while (frame := self._decoder.process_buffer()) is not None:
            # wsproto reports a frame that arrives in several pieces as several parts; only the first part has the opcode.
            self._opcode = self._opcode or frame.opcode
            self._payload += bytes(frame.payload)  # type: ignore[arg-type]
            if not frame.frame_finished:
                continue
            opcode, payload, self._opcode, self._payload = self._opcode, self._payload, None, b""
            kind: StepKind = "event"
            parsed: Any = None
            match opcode:
                case Opcode.TEXT:
                    parsed = json.loads(payload)
                    name = parsed["type"]
                case Opcode.CLOSE:
                    kind, name = "close", f"close {int.from_bytes(payload[:2], 'big') if payload else ''}".strip()
                case Opcode.PING | Opcode.PONG:
                    kind, name = "heartbeat", opcode.name.lower()
                case _:
                    name = f"binary, {len(payload)} bytes"
            # RFC 6455, section 5.2: two bytes, the extended length, and the masking key of a frame from the client.
            head = 2 + (0 if len(payload) < 126 else 2 if len(payload) < 65536 else 8) + 4 * (self._direction == "up")
            yield Step(
                at=at,
                connection=self._number,
                stream=0,
                direction=self._direction,
                kind=kind,
                name=name,
                size=head + len(payload),
                payload=parsed,
                raw=payload,
            )
