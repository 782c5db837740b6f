"""A load whose request is given, over HTTP/1.1 or HTTP/2; events are found by a pattern, whatever frames are around them."""

from __future__ import annotations

import re
import struct

from compare.measuring.floors.load.counts import Counts
from compare.measuring.floors.load.http1 import LAST_CHUNK, Http1Connection
from compare.measuring.floors.load.http2 import Http2Connection

_JSON = re.compile(rb'\{"type":"[a-z_]+","turn_id":"[0-9a-f-]{36}","seq":[0-9]+,"at":([0-9.]+)[,}]')
# chat.Event: field 1 is a UUID, field 2 a varint, field 3 a double.
_PROTOBUF = re.compile(rb"\x0a\x24[0-9a-f]{8}-[0-9a-f-]{27}\x10[\x80-\xff]*[\x00-\x7f]\x19(.{8})", re.DOTALL)
_LONGEST = 160


class EventMarks:
    """Finds events in bytes that arrive in pieces, and adds their delays where the job wants them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._pattern = _PROTOBUF if counts.job.protobuf else _JSON
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """The number of events whose start has arrived."""
        data = self._tail + data
        found, end = [], 0
        for match in self._pattern.finditer(data):
            found.append(match[1])
            end = match.end()
        self._tail = data[end:][-_LONGEST:]
        if self._counts.job.stamps and found:
            self._counts.add_delays([b"%r" % struct.unpack("<d", at)[0] if len(at) == 8 else at for at in found])
        return len(found)


class MarkedHttp1Connection(Http1Connection):
    """HTTP/1.1: the answer ends with its last chunk."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        job = counts.job
        head = f"POST {job.path} HTTP/1.1\r\nHost: {job.address}\r\nContent-Type: {job.content_type}\r\n"
        self._given = f"{head}Content-Length: {len(job.body)}\r\n\r\n".encode() + job.body
        self._marks = EventMarks(counts)
        self._last = b""

    def request(self) -> bytes:
        self._marks, self._last = EventMarks(self.counts), b""
        return self._given

    def data_received(self, data: bytes) -> None:
        counts = self.counts
        counts.bytes += len(data)
        if not self._last and not data.startswith(b"HTTP/1.1 200"):
            counts.fail(data[:400].decode(errors="replace"))
            return
        if events := self._marks.feed(data):
            self.got(events)
        self._last = (self._last + data)[-len(LAST_CHUNK) :]
        if self._last == LAST_CHUNK:
            self.end()


class MarkedHttp2Connection(Http2Connection):
    """HTTP/2: the answer ends with a frame that ends its stream."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        job = counts.job
        self._marks = EventMarks(counts)
        self.set_request(job.path or "/", job.content_type, job.body)

    def request(self) -> bytes:
        self._marks = EventMarks(self.counts)
        return super().request()

    def count_messages(self, data: bytes) -> None:
        if events := self._marks.feed(data):
            self.got(events)


class WholeHttp2Connection(MarkedHttp2Connection):
    """HTTP/2: the whole answer is one event, which arrives with the first bytes of the body."""

    def count_messages(self, data: bytes) -> None:
        if not self._seen:
            self.got(1)
