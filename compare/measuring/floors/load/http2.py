"""The load over gRPC: HTTP/2 (RFC 9113) with one stream at a time and flow-control windows that never close."""

from __future__ import annotations

import struct
import time

from compare.lines.capture import HTTP2_PREFACE
from compare.measuring.floors.load.connection import LoadConnection
from compare.measuring.floors.load.counts import Counts
from protocols.grpc import chat_pb2

_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4


class Http2Connection(LoadConnection):
    """Messages are counted by their five-byte prefixes; an answer ends with the frame that ends its stream."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        job = counts.job
        self._stream_id = -1
        self._frames = b""
        self._messages = b""
        self._read_bytes = 0
        path, body = grpc_call(job.message, job.turn_id)
        self.set_request(path, "application/grpc", body)

    def set_request(self, path: str, content_type: str, body: bytes) -> None:
        """What the connection asks with: POST with a body, GET without one."""
        fields = (
            (":method", "POST" if body else "GET"),
            (":scheme", "https" if self.counts.job.ca else "http"),
            (":path", path),
            (":authority", self.counts.job.address),
            ("te", "trailers"),
            ("content-type", content_type),
        )
        # RFC 7541, section 6.2.2: literal fields without indexing need no table.
        self._headers = b"".join(
            b"\x00" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode() for key, value in fields
        )
        self._body = body

    def greet(self) -> None:
        initial_window = struct.pack(">HI", 4, _WINDOW)
        self.write(
            HTTP2_PREFACE
            + _frame(_SETTINGS, 0, 0, initial_window)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _DEFAULT_WINDOW))
        )
        self.ready.set_result(None)

    def request(self) -> bytes:
        self._stream_id += 2
        if not self._body:
            return _frame(_HEADERS, _END_HEADERS | _END_STREAM, self._stream_id, self._headers)
        headers = _frame(_HEADERS, _END_HEADERS, self._stream_id, self._headers)
        return headers + _frame(_DATA, _END_STREAM, self._stream_id, self._body)

    def data_received(self, data: bytes) -> None:
        counts = self.counts
        counts.bytes += len(data)
        self._read_bytes += len(data)
        if self._read_bytes > 2**29:
            self.write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._read_bytes)))
            self._read_bytes = 0
        data = self._frames + data
        at, size, ended = 0, len(data), False
        bodies = []
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size - at - 9 < length:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == _DATA:
                ended = ended or bool(flags & _END_STREAM)
                bodies.append(data[at + 9 : at + 9 + length])
            elif kind == _HEADERS:
                ended = ended or bool(flags & _END_STREAM)
            elif kind == _SETTINGS and not flags & _ACK:
                self.write(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self.write(_frame(_PING, _ACK, 0, data[at + 9 : at + 17]))
            elif kind in (_RST_STREAM, _GOAWAY):
                counts.fail(f"the server reset the stream: {data[at + 9 : at + 9 + length]!r}")
            at += 9 + length
        self._frames = data[at:]
        if bodies:
            self.count_messages(b"".join(bodies))
        if ended:
            self.end()

    def count_messages(self, data: bytes) -> None:
        """Count the messages in bytes of the answer."""
        data = self._messages + data
        at, size, count = 0, len(data), 0
        stamps = self.counts.job.stamps
        now = time.time() * 1000
        while size - at >= 5:
            length = int.from_bytes(data[at + 1 : at + 5], "big")
            if size - at - 5 < length:
                break
            if stamps:
                self.counts.delays_ms.append(now - chat_pb2.Event.FromString(data[at + 5 : at + 5 + length]).at)
            at += 5 + length
            count += 1
        self._messages = data[at:]
        if count:
            self.got(count)


def grpc_call(message: str, turn_id: str | None) -> tuple[str, bytes]:
    """The path of a new turn or of the reading of a turn, and its one message with the length prefix."""
    name, data = "SendMessage", chat_pb2.SendMessageRequest(message=message).SerializeToString()
    if turn_id is not None:
        name, data = "ResumeTurn", chat_pb2.ResumeTurnRequest(turn_id=turn_id, after=0).SerializeToString()
    return f"/chat.ChatService/{name}", b"\x00" + len(data).to_bytes(4, "big") + data


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload
