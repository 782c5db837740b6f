"""gRPC over HTTP/2 (RFC 9113) as the probe speaks it: a raw connection, so that pings, resets and trailers can be seen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from compare.probing.frames import Frames, Messages
from compare.probing.heard import Heard, now
from compare.probing.stream import Stop, Stream
from compare.probing.target import Target, connect, hang_up

_READ_BYTES = 64 * 1024
_WINDOW_BYTES = 16 * 1024 * 1024
_OK = 0
_FRAME_HEAD_BYTES = 9
_GOAWAY = 7


class Http2:
    """One connection with any number of calls. ``pings`` has the times of the PINGs that came, ``closed_s`` that of the end."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pings: list[float] = []
        self.closed_s: float | None = None
        self.detail = ""
        self._target, self._reader, self._writer = target, reader, writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._calls: dict[int, tuple[Heard, Frames]] = {}
        self._rest = b""
        self._changed = asyncio.Event()
        self._settings = asyncio.Event()
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW_BYTES)
        self._flush()
        self._receiving = asyncio.create_task(self._receive())

    @classmethod
    async def open(cls, target: Target) -> Self:
        """Connect. Raises ServerAbsent."""
        return cls(target, *await connect(target, ("h2",)))

    async def call(
        self,
        method: str,
        message: bytes,
        metadata: Iterable[tuple[str, str]] = (),
        frames: Callable[[Heard], Frames] = Messages,
    ) -> GrpcStream:
        """Begin a call of ``package.Service/Method``: its request is one message."""
        target = self._target
        stream_id = self._h2.get_next_available_stream_id()
        heard = Heard(now())
        self._calls[stream_id] = heard, frames(heard)
        sent = [
            (":method", "POST"),
            (":scheme", "https" if target.trust else "http"),
            (":authority", target.authority),
            (":path", f"/{method}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *((name.lower(), value) for name, value in (*target.authorization, *metadata)),
        ]
        try:
            self._h2.send_headers(stream_id, sent)
            self._flush()
            await self._send(stream_id, b"\0" + len(message).to_bytes(4) + message)
        except h2.exceptions.TooManyStreamsError:
            heard.finish("refused", f"the path allows {self._h2.remote_settings.max_concurrent_streams} calls at once")
        except (h2.exceptions.ProtocolError, OSError) as error:
            heard.finish("cut", self.detail or type(error).__name__)
        return GrpcStream(self, stream_id, heard)

    async def _send(self, stream_id: int, data: bytes) -> None:
        """Send the request as fast as the peer's windows allow; give up when the call has ended."""
        heard = self._calls[stream_id][0]
        while data and heard.end == "open":
            size = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size, len(data))
            if size:
                self._h2.send_data(stream_id, data[:size], end_stream=size == len(data))
                data = data[size:]
                self._flush()
            else:
                await self.change(10.0)
                size = self._h2.local_flow_control_window(stream_id)
                if not size and heard.end == "open" and self.closed_s is not None:
                    return

    async def settled(self) -> None:
        """Wait until the peer has sent its settings, at most a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._settings.wait()

    async def change(self, seconds: float) -> None:
        """Wait until something has arrived, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def close(self) -> None:
        """Close the connection at once."""
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)
        await hang_up(self._writer)

    def reset(self, stream_id: int) -> None:
        """Cancel a call, as a client that leaves does."""
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def _receive(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                self._take(self._without_goaway(data))
                self._wake()
        except (OSError, h2.exceptions.ProtocolError) as error:
            self.detail = type(error).__name__
        self.closed_s = now()
        for heard, _ in self._calls.values():
            heard.finish("cut", self.detail or "closed in the middle of the answer")
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _without_goaway(self, data: bytes) -> bytes:
        """The whole frames so far, less each GOAWAY without an error (RFC 9113, section 6.8).

        Such a frame lets the running calls end, and h2 would refuse their further frames.
        """
        self._rest += data
        kept = bytearray()
        while len(self._rest) >= _FRAME_HEAD_BYTES:
            size = _FRAME_HEAD_BYTES + int.from_bytes(self._rest[:3])
            if len(self._rest) < size:
                break
            frame, self._rest = self._rest[:size], self._rest[size:]
            if frame[3] == _GOAWAY and int.from_bytes(frame[13:17]) == h2.errors.ErrorCodes.NO_ERROR:
                self.detail = "GOAWAY NO_ERROR"
            else:
                kept += frame
        return bytes(kept)

    def _take(self, data: bytes) -> None:
        """Apply the bytes that have arrived: one piece for every call that has bytes in them."""
        events = self._h2.receive_data(data)
        sizes: dict[int, int] = {}
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None and event.data is not None
                sizes[event.stream_id] = sizes.get(event.stream_id, 0) + len(event.data)
        for stream_id, size in sizes.items():
            self._calls[stream_id][0].took_piece(size)
        for event in events:
            self._apply(event)
        self._flush()

    def _apply(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.PingReceived():
                self.pings.append(now())
            case h2.events.RemoteSettingsChanged():
                self._settings.set()
            case h2.events.ConnectionTerminated():
                self.detail = f"GOAWAY {_name(event.error_code)}"
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self._took_headers(event)
            case h2.events.DataReceived():
                assert event.stream_id is not None and event.data is not None
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                heard, frames = self._calls[event.stream_id]
                if heard.headers.get("content-type", "").startswith("application/grpc"):
                    frames.feed(event.data)
                else:
                    heard.keep(event.data)
            case h2.events.StreamReset():
                self._calls[event.stream_id][0].finish("cut", f"RST_STREAM {_name(event.error_code)}")
            case h2.events.StreamEnded():
                assert event.stream_id is not None
                heard = self._calls[event.stream_id][0]
                if heard.status not in (None, 200) or heard.rpc_status not in (None, _OK):
                    heard.finish("refused", f"gRPC status {heard.rpc_status}")
                heard.finish("ended")

    def _took_headers(self, event: h2.events.ResponseReceived | h2.events.TrailersReceived) -> None:
        assert event.stream_id is not None and event.headers is not None
        heard = self._calls[event.stream_id][0]
        for name, value in event.headers:
            heard.headers[str(name)] = str(value)
        if isinstance(event, h2.events.ResponseReceived):
            heard.status = int(heard.headers[":status"])
        heard.took_rpc_status()


class GrpcStream(Stream):
    """One call. ``connection`` may have others."""

    def __init__(self, connection: Http2, stream_id: int, heard: Heard) -> None:
        self.connection = connection
        self.heard = heard
        self._stream_id = stream_id

    async def read(self, seconds: float, stop: Stop | None = None) -> Heard:
        until = now() + seconds
        while self.heard.end == "open" and not (stop and stop(self.heard)) and now() < until:
            await self.connection.change(until - now())
        return self.heard

    async def read_trailers(self, seconds: float) -> Heard:
        """Read on after the terminal event, until the call's status is there or the connection ends."""
        until = now() + seconds
        while self.heard.rpc_status is None and self.connection.closed_s is None and now() < until:
            await self.connection.change(min(0.2, until - now()))
        return self.heard

    async def leave(self) -> None:
        self.connection.reset(self._stream_id)
        await self.connection.close()


def _name(code: h2.errors.ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)
