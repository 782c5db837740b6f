"""The load over HTTP/1.1 with keep-alive (RFC 9112): REST, NDJSON and SSE."""

from __future__ import annotations

import json
import re

from compare.measuring.floors.load.connection import AT, EVENT, LoadConnection
from compare.measuring.floors.load.counts import Counts

LAST_CHUNK = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")


class Http1Connection(LoadConnection):
    """An answer ends with its last chunk, or after ``Content-Length`` bytes."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        job = counts.job
        path, body = job.path, b""
        if path is None and job.turn_id is not None:
            path = f"/turns/{job.turn_id}/stream"
        elif path is None:
            path = "/chat" if job.wire == "rest" else "/chat/stream"
            body = json.dumps({"message": job.message}).encode()
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: {job.address}\r\nAccept: */*\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._request = head.encode() + b"\r\n" + body
        self._tail = b""
        self._in_head = True
        self._body_left = -1

    def request(self) -> bytes:
        self._tail, self._in_head, self._body_left = b"", True, -1
        return self._request

    def data_received(self, data: bytes) -> None:
        counts = self.counts
        counts.bytes += len(data)
        if counts.job.stamps:
            counts.add_delays(AT.findall(data))
        data = self._tail + data
        if self._in_head:
            split = data.find(b"\r\n\r\n")
            if split < 0:
                self._tail = data
                return
            if data[:12] != b"HTTP/1.1 200":
                counts.fail(data[:400].decode(errors="replace"))
                return
            self._in_head = False
            length = _LENGTH.search(data, 0, split + 2)
            # The blank line stays before the body, so that an empty body ends with the same bytes as any other.
            data = data[split + 2 :]
            if length is not None:
                self._body_left = int(length[1])
                data = data[2:]
                self.got(1)
            else:
                self._tail = b""
        if self._body_left >= 0:
            self._body_left -= len(data)
            self._tail = b""
            if self._body_left <= 0:
                self.end()
            return
        events = data.count(EVENT)
        if events:
            self.got(events)
        if data.endswith(LAST_CHUNK):
            self.end()
        else:
            self._tail = data[-8:]
