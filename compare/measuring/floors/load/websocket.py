"""The load over a WebSocket (RFC 6455)."""

from __future__ import annotations

import json

from compare.measuring.floors.load.connection import AT, EVENT, LoadConnection

_TERMINAL = b'{"type":"turn_completed"'
_NOT_OF_A_TURN = (b'{"type":"session_', b'{"type":"resumed"', b'{"type":"error"')


class WebSocketConnection(LoadConnection):
    """Frames are not parsed: an event is counted by its first bytes, an answer ends with the terminal event."""

    _upgraded = False
    _tail = b""

    def greet(self) -> None:
        self.write(
            f"GET /ws HTTP/1.1\r\nHost: {self.counts.job.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: genai.chat.v1\r\n\r\n".encode()
        )

    def request(self) -> bytes:
        job = self.counts.job
        if job.turn_id is not None:
            return _text_frame({"type": "resume", "turn_id": job.turn_id, "after": 0})
        # Each turn gets a new session, as on the other transports when no session is named.
        return _text_frame({"type": "chat", "message": job.message, "new_session": True})

    def data_received(self, data: bytes) -> None:
        counts = self.counts
        counts.bytes += len(data)
        if counts.job.stamps:
            counts.add_delays(AT.findall(data))
        data = self._tail + data
        if not self._upgraded:
            self._upgrade(data)
            return
        events = data.count(EVENT)
        if events and self._seen < 2:
            # Messages that belong to no turn come only at the start of an answer.
            events -= sum(data.count(other) for other in _NOT_OF_A_TURN)
            if _NOT_OF_A_TURN[-1] in data:
                counts.fail(data[:400].decode(errors="replace"))
                return
        if events > 0:
            self.got(events)
        if _TERMINAL in data:
            self._tail = b""
            self.end()
            return
        self._tail = data[-(len(EVENT) - 1) :]
        split = data.rfind(EVENT)
        if split >= 0 and len(data) - split < len(_TERMINAL):
            # The type of this event is not complete, so its bytes are kept. It will be counted again, hence the -1.
            self._tail = data[split:]
            counts.events -= 1

    def _upgrade(self, data: bytes) -> None:
        if b'"connected"' in data:
            self._upgraded, self._tail = True, b""
            self.ready.set_result(None)
            return
        self._tail = data
        if not data.startswith(b"HTTP/1.1 101"[: len(data)]):
            self.counts.fail(data[:400].decode(errors="replace"))


def _text_frame(message: dict[str, object]) -> bytes:
    """A masked text frame whose mask is zero (RFC 6455, section 5.2)."""
    data = json.dumps(message).encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + b"\x00\x00\x00\x00" + data
