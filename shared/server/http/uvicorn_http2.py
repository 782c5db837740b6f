"""uvicorn's HTTP/2 (RFC 9113) by zttp, adapted, beside the HTTP/1.1 of ``uvicorn_adapter``: ``HTTP2=on``, extra ``http2``.

A connection speaks HTTP/2 when TLS has agreed on it (ALPN ``h2``), or when it begins with HTTP/2's preface (prior knowledge,
section 3.3). The classes are private to uvicorn; ``missing`` tells what a newer version has moved.
"""

from __future__ import annotations

import asyncio
import contextlib

import zttp
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto_zttp_impl import AutoZttpProtocol
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle, ZttpH2Protocol

from shared.server.http import uvicorn_adapter
from shared.server.http.answer_middleware import BREAK_LINE
from shared.server.http.idle_connections import IdleConnections
from shared.server.http.lines import WRITE_NOW, at_once
from shared.server.http.uvicorn_adapter import HttpProtocol

# A stream's bytes that its reader has given no room for. Beyond them the app waits, as it does for a slow reader of HTTP/1.1.
_UNREAD_BYTES = 64 * 1024
# A client that resets so many streams in a row before their answers end is refused (CVE-2023-44487).
_RESETS_IN_A_ROW = 200
_PROTOCOL_ERROR = 0x1
_ENHANCE_YOUR_CALM = 0xB
_USED: dict[type, tuple[str, ...]] = {
    AutoZttpProtocol: (
        "_switch",
        "app_state",
        "config",
        "connection_made",
        "loop",
        "server_state",
        "timeout_task",
        "transport",
    ),
    ZttpH2Protocol: (
        "_close_connection",
        "_unset_keepalive_if_required",
        "app",
        "config",
        "conn",
        "connection_lost",
        "connection_made",
        "cycles",
        "data_received",
        "handle_request",
        "handle_rst_stream",
        "loop",
        "on_stream_closed",
        "resume_reading_if_idle",
        "shutdown",
        "shutdown_requested",
        "timeout_keep_alive",
        "timeout_keep_alive_handler",
        "timeout_keep_alive_task",
        "transport",
    ),
    RequestResponseCycle: (
        "abort_stream",
        "disconnected",
        "flow",
        "message_event",
        "more_body",
        "response_complete",
        "send",
        "stream",
    ),
}


def missing() -> list[str]:
    """The attributes of the libraries' classes that this module uses and the installed versions do not have."""
    return uvicorn_adapter.missing(_USED)


class EitherProtocol(AutoZttpProtocol):
    """A new connection, until it is known whether it speaks HTTP/1.1 or HTTP/2: for as long as the head of a request may take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.timeout_task is not None:
            # uvicorn gives the first bytes as long as an idle connection has.
            self.timeout_task.cancel()
            self.timeout_task = self.loop.call_later(self.config.request_timeout_s, transport.close)  # type: ignore[attr-defined]

    def _switch(self, http2: bool, initial_data: bytes = b"") -> None:
        protocol = (Http2Protocol if http2 else HttpProtocol)(
            config=self.config,
            server_state=self.server_state,
            app_state=self.app_state,
            _loop=self.loop,
        )
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if initial_data:
            protocol.data_received(initial_data)


class Http2Protocol(ZttpH2Protocol):
    """uvicorn's HTTP/2 with eight differences.

    - What a stream's reader leaves unread is bounded, and a reader that reads nothing for ``STALL_TIMEOUT_S`` is cut: its stream
      is reset, and the other streams of the connection go on. The last bytes of an answer wait for the reader as any others do.
    - A new connection has a limited time for the head of its first request (slow-loris).
    - Frames that open no stream, such as PING, hold an idle connection for ``KEEP_ALIVE_S`` at most. Of too many idle
      connections the oldest is closed.
    - A client that resets 200 streams in a row is refused.
    - A request whose head is its end has no body to wait for.
    - An answer whose line breaks on purpose ends with a reset of its stream.
    - An answer on a connection that was closed meanwhile is no error.
    - A lost connection gives the library's buffers back at once.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._asgi = self.app
        self._answers: dict[int, _BoundedAnswer] = {}
        self._resets = 0
        self._lost = False
        self._idle_connections: IdleConnections = self.config.idle_connections  # type: ignore[attr-defined]
        self._idle: asyncio.TimerHandle | None = None
        self._stall_s: float = self.config.stall_timeout_s  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._limit_idle(self.config.request_timeout_s)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._unlimit_idle()
        super().connection_lost(exc)
        self._lost = True
        for answer in self._answers.values():
            answer.lose_reader()
        self._free_buffers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for answer in self._answers.values():
            answer.wake()
        if not self._answers and not self.transport.is_closing():
            self._limit_idle(self.timeout_keep_alive)
            self._idle_connections.add(self)

    def handle_request(self, event: zttp.Request) -> None:
        self._unlimit_idle()
        if not (event.path + event.method).isascii():
            # uvicorn would raise here, and the connection with all its streams would break.
            self.conn.stream(event.stream_id).reset(_PROTOCOL_ERROR)
            return
        answer = _BoundedAnswer(self, self._asgi, event.stream_id)
        if not self.shutdown_requested:
            # Otherwise uvicorn answers by itself.
            self._answers[event.stream_id] = answer
        # The library's cycle calls the app of its connection.
        self.app = answer
        super().handle_request(event)
        answer.cycle = self.cycles.get(event.stream_id)
        if event.end_stream and answer.cycle is not None:
            # uvicorn waits for an event of the body's end, which zttp does not give when the head ends the request.
            answer.cycle.more_body = False
            answer.cycle.message_event.set()

    def handle_rst_stream(self, event: zttp.RstStream) -> None:
        answer = self._answers.get(event.stream_id)
        super().handle_rst_stream(event)
        if answer is None:
            return
        answer.lose_reader()
        self._resets += 1
        if self._resets >= _RESETS_IN_A_ROW:
            with contextlib.suppress(zttp.LocalProtocolError):
                self.conn.close(_ENHANCE_YOUR_CALM)
                self.transport.write(self.conn.data_to_send())
            self.transport.close()

    def on_stream_closed(self) -> None:
        if self.cycles or not self._answers:
            super().on_stream_closed()
            if self.timeout_keep_alive_task is not None:
                self._idle_connections.add(self)
        else:
            # The connection is not idle: the last bytes of an answer wait for their reader.
            self.resume_reading_if_idle()

    def forget(self, stream_id: int, *, whole: bool) -> None:
        """The answer on a stream has ended; ``whole``: to its last byte."""
        self._answers.pop(stream_id, None)
        if whole:
            self._resets = 0
        self.on_stream_closed()
        self._free_buffers()

    def _free_buffers(self) -> None:
        if self._lost and not self._answers:
            # The library's buffers, up to some MB a connection, would wait for the garbage collector otherwise.
            del self.conn

    def shutdown(self) -> None:
        self.shutdown_requested = True
        if not self._answers:
            super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        super()._unset_keepalive_if_required()
        self._idle_connections.discard(self)

    def timeout_keep_alive_handler(self) -> None:
        if not self._answers:
            super().timeout_keep_alive_handler()

    @property
    def stall_s(self) -> float:
        """The longest time for which a stream's reader may read nothing."""
        return self._stall_s

    def _limit_idle(self, seconds: float) -> None:
        """Close the connection after ``seconds``, unless a request begins before. The first call counts."""
        if self._idle is None:
            self._idle = self.loop.call_later(seconds, self._close_late)

    def _unlimit_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _close_late(self) -> None:
        self._idle = None
        self._close_connection()


class _BoundedAnswer:
    """The app, called for one request: it waits while the reader of the stream has much to read."""

    __slots__ = ("_app", "_connection", "_stream_id", "_woken", "cycle")

    def __init__(self, connection: Http2Protocol, app: ASGIApp, stream_id: int) -> None:
        self._connection = connection
        self._app = app
        self._stream_id = stream_id
        self._woken: asyncio.Event | None = None
        self.cycle: RequestResponseCycle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle
        assert cycle is not None

        async def send_bounded(message: Message) -> None:
            try:
                await send(message)
            except zttp.LocalProtocolError:
                if not self._connection.transport.is_closing():
                    raise
                # The connection was closed after uvicorn's last look at it: nobody reads the rest.
                cycle.disconnected = True
                cycle.message_event.set()
                return
            if (cycle.stream.pending_bytes or 0) > _UNREAD_BYTES:
                await self._until_read(cycle, _UNREAD_BYTES)

        scope[WRITE_NOW] = self._write_now
        try:
            await self._app(scope, receive, send_bounded)
            if scope.get("state", {}).get(BREAK_LINE):
                cycle.abort_stream()
            if cycle.stream.pending_bytes:
                await self._until_read(cycle, 0)
        finally:
            self._connection.forget(self._stream_id, whole=cycle.response_complete and not cycle.disconnected)

    def _write_now(self, body: bytes) -> bool:
        """Send a piece of a body if the reader has read all before it. Returns whether the piece was sent."""
        cycle = self.cycle
        if cycle is None or cycle.disconnected or cycle.flow.write_paused or cycle.stream.pending_bytes:
            return False
        return at_once(cycle.send({"type": "http.response.body", "body": body, "more_body": True}))

    async def _until_read(self, cycle: RequestResponseCycle, most_bytes: int) -> None:
        """Wait until at most ``most_bytes`` are unread. The stream of a reader that reads nothing for too long is reset."""
        self._woken = asyncio.Event()
        unread = cycle.stream.pending_bytes or 0
        while unread > most_bytes and not cycle.disconnected:
            self._woken.clear()
            try:
                async with asyncio.timeout(self._connection.stall_s):
                    while not cycle.disconnected and (cycle.stream.pending_bytes or 0) >= unread:
                        await self._woken.wait()
                        self._woken.clear()
            except TimeoutError:
                cycle.abort_stream()
                cycle.message_event.set()
            unread = cycle.stream.pending_bytes or 0
        self._woken = None

    def wake(self) -> None:
        """The connection has received something: look again."""
        if self._woken is not None:
            self._woken.set()

    def lose_reader(self) -> None:
        """The stream was reset, or the connection lost. uvicorn does not tell an answer that is sent up to its last bytes."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.wake()
