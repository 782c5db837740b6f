"""uvicorn's protocol classes, adapted: HTTP/1.1 (RFC 9112) and WebSocket (RFC 6455) as the four HTTP servers need them.

The classes are private to uvicorn, so only this file and ``uvicorn_http2`` name them. ``missing`` tells what a newer version
has moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from shared.server.http.answer_middleware import BREAK_LINE
from shared.server.http.idle_connections import IdleConnections
from shared.server.http.lines import WRITE_NOW, at_once
from shared.server.http.received import ReceivedMessages

# A connection whose unsent frames reach this size writes at once: then the transport can say that its reader is slow.
_WRITE_BYTES = 64 * 1024
_FRAMES_A_WRITE = 16
# The longest head of a request. The bytes around a body may be as many, and 16 more for each byte of the body.
_MAX_OVERHEAD_BYTES = 64 * 1024
_OVERHEAD_PER_BODY_BYTE = 16
# How long a connection reads what a client still sends after the answer: closed at once, it could lose the answer.
_LINGER_S = 2.0
# The most fragments of a WebSocket message (RFC 6455, section 5.4): for the longest message they are 2 KiB each.
_MAX_FRAGMENTS = 4096
_NO_CONTENT = b"content-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
# The longest message of a client that the app has not authenticated: it can only be a ticket.
_MAX_TICKET_BYTES = 64 * 1024
# The headers of an offer to change the protocol (RFC 9110, section 7.8; HTTP2-Settings is h2c's).
_OFFER = (b"upgrade", b"http2-settings")
# What the classes below use or override, by the class that has it.
_USED: dict[type, tuple[str, ...]] = {
    uvicorn.Server: (
        "capture_signals",
        "force_exit",
        "lifespan",
        "serve",
        "server_state",
        "servers",
        "should_exit",
        "started",
        "startup",
    ),
    HttpToolsProtocol: (
        "_should_upgrade",
        "_start_asgi_task",
        "_unset_keepalive_if_required",
        "config",
        "connection_lost",
        "connection_made",
        "cycle",
        "eof_received",
        "expect_100_continue",
        "flow",
        "handle_websocket_upgrade",
        "headers",
        "loop",
        "on_body",
        "on_header",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
        "on_response_complete",
        "parser",
        "pipeline",
        "scheme",
        "send_400_response",
        "timeout_keep_alive",
        "timeout_keep_alive_handler",
        "timeout_keep_alive_task",
        "transport",
        "url",
    ),
    RequestResponseCycle: (
        "chunked_encoding",
        "disconnected",
        "expected_content_length",
        "flow",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "send",
        "transport",
        "waiting_for_100_continue",
    ),
    ServerProtocol: ("current_size", "data_to_send", "recv_frame", "send_text", "state"),
    WebSocketsSansIOProtocol: (
        "close_sent",
        "conn",
        "connection_made",
        "data_received",
        "disconnected",
        "frames",
        "handle_cont",
        "handle_parser_exception",
        "handshake_complete",
        "handshake_initiated",
        "keepalive_timeout",
        "logger",
        "loop",
        "queue",
        "run_asgi",
        "scope",
        "shutdown",
        "transport",
        "writable",
    ),
}


def missing(used: Mapping[type, Sequence[str]] = _USED) -> list[str]:
    """The attributes of the libraries' classes that this module uses and the installed versions do not have."""
    return [
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind, names in used.items()
        for name in sorted(set(names) - _attributes(kind))
    ]


def _attributes(kind: type) -> set[str]:
    """The names that a class has, and those that its methods mention: the attributes of its objects are among them."""
    methods = [value for base in kind.__mro__ for value in vars(base).values() if inspect.isfunction(value)]
    return {*dir(kind), *(name for method in methods for name in method.__code__.co_names)}


class AdaptedServer(uvicorn.Server):
    """uvicorn with two differences.

    - It handles no signals, because the servers drain before they stop.
    - A client has a limited time for the TLS handshake, as for the head of a request. asyncio's own limit is a minute.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config = self.config
        if config.ssl is None or sockets is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        make = functools.partial(
            cast(Callable[..., asyncio.Protocol], config.http_protocol_class),
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        timeout_s: float = config.request_timeout_s  # type: ignore[attr-defined]
        self.servers = [
            await asyncio.get_running_loop().create_server(
                make,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=timeout_s,
            )
            for sock in sockets
        ]
        self.started = True


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with twelve differences.

    - A client has a limited time for the head of a request (slow-loris), and for the rest of a request that has been answered.
    - A connection is idle from the end of its last request to the beginning of the next one, also where the answer came
      before that end, and where empty lines come in between. Of too many idle connections the oldest is closed.
    - The head of a request has a limited size: 431, or 414 where the path makes it too large. The lines that frame a
      chunked body, and the trailers, have a limit too.
    - A pipelined request is read after the answers to those before it.
    - An offer to change the protocol is declined unless it is a WebSocket's, and the request is answered in HTTP/1.1, its body
      included (RFC 9110, section 7.8). Java's HTTP client offers h2c with every request.
    - The host in an absolute request target takes the place of ``Host`` (RFC 9112, section 3.2.2).
    - The trailers of a chunked body are dropped; they are no headers (RFC 9110, section 6.5.1).
    - A header's value has no white space around it (RFC 9112, section 5.1).
    - A connection that closes before the request has been read drops what comes for two seconds after the answer (RFC 9112,
      section 9.6). So ends a request with ``Expect: 100-continue`` that is refused before its body.
    - ``Expect`` of HTTP/1.0 is ignored (RFC 9110, section 10.1.1).
    - A client that closes its side after the request counts as gone: an answer that waits for something ends. Any
      other answer is sent.
    - An answer to HTTP/1.0 without a length ends with its connection, and is not chunked (RFC 9112, sections 6.1 and 6.3).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._idle: IdleConnections = self.config.idle_connections  # type: ignore[attr-defined]
        super().connection_made(transport)
        self.client_left = False
        # Whether this object parses nothing more of the connection.
        self._over = False
        self._in_head = True
        self._piece_bytes = 0
        self._overhead_bytes = 0
        self._body_bytes = 0
        self._declined: list[tuple[bytes, bytes]] = []
        # Whether the connection ends with an answer that is sent before the request has been read.
        self.lingers = False
        self._head = self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        # uvicorn's timer would keep this object alive after a connection that was reset.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        self.client_left = True
        cycle.keep_alive = False
        cycle.message_event.set()
        return True

    def data_received(self, data: bytes) -> None:
        while data and not self._over:
            room = _MAX_OVERHEAD_BYTES + _OVERHEAD_PER_BODY_BYTE * self._body_bytes - self._overhead_bytes
            if room <= 0:
                self._refuse_overhead()
                return
            piece, data = data[:room], data[room:]
            self._piece_bytes = len(piece)
            self._overhead_bytes += len(piece)
            self._parse(piece)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._opens_websocket():
                self._over = True
                self.handle_websocket_upgrade()
            elif self.parser.get_method() == b"CONNECT":
                self.send_400_response("CONNECT is for proxies.")
            else:
                self._decline_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._over = True
            self.send_400_response("Invalid HTTP request received.")

    def _refuse_overhead(self) -> None:
        if not self._in_head:
            self._over = True
            self._head.cancel()
            self.transport.close()
            return
        status = 414 if len(self.url) > _MAX_OVERHEAD_BYTES // 2 else 431
        self.transport.write(STATUS_LINE[status] + _NO_CONTENT)
        self._linger()

    def _linger(self) -> None:
        """Close this side, and drop what the client still sends until it closes its own side or the time is over."""
        self._over = True
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._unset_keepalive_if_required()
        self._head.cancel()
        self._head = self.loop.call_later(_LINGER_S, self._close_late)

    def _should_upgrade(self) -> bool:
        # uvicorn asks this when the parser has seen an offer. The parser ends this request after the head in any case.
        return True

    def _opens_websocket(self) -> bool:
        if self.parser.get_method() != b"GET" or self.parser.get_http_version() != "1.1":
            return False
        offered = [value.strip().lower() for name, value in self.headers if name == b"upgrade"]
        return offered == [b"websocket"]

    def _decline_offer(self, rest: bytes) -> None:
        """Parse the head again without the offer, then ``rest``: after an offer the parser reads no body."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name not in _OFFER:
                head += [name, b": ", value, b"\r\n"]
        self._declined = [header for header in self.headers if header[0] in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join(head) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # uvicorn ends the time of an idle connection at any byte. An empty line before a request begins none.
        self._unset_keepalive_if_required()
        self._in_head = True
        # The whole piece counts, because the parser does not tell where in it the message begins.
        self._overhead_bytes = self._piece_bytes
        self._body_bytes = 0
        self._head.cancel()
        self._head = self._limit_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value.strip(b" \t"))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._overhead_bytes -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self._idle.add(self)
        if self.lingers:
            self._linger()
        elif self.pipeline:
            self.flow.pause_reading()
        elif self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._head.cancel()
            self._head = self._limit_head()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.parser.should_upgrade() and self.cycle.response_complete:
            # The request ends after its answer: its last bytes have stopped the timer of an idle connection.
            self._head.cancel()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._idle.add(self)

    def _unset_keepalive_if_required(self) -> None:
        super()._unset_keepalive_if_required()
        self._idle.discard(self)

    def on_headers_complete(self) -> None:
        # An answer to the request before may have ended since this request began.
        self._unset_keepalive_if_required()
        self._in_head = False
        self._head.cancel()
        if self._declined:
            self.headers += self._declined
            self._declined = []
        if not self.url.startswith(b"/"):
            self._take_absolute_target()
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()

    def _take_absolute_target(self) -> None:
        """Take ``Host`` and the path from a target with a host (RFC 9112, section 3.2.2). The answer to an exception is 400."""
        target = httptools.parse_url(self.url)
        if not target.host:
            return
        if target.schema.lower() not in (b"http", b"https") or target.userinfo:
            raise ValueError("A request target is an http or https URL without a user.")
        name = b"[%b]" % target.host if b":" in target.host else target.host
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", name + (b":%d" % target.port if target.port else b"")))
        self.url = (target.path or b"/") + (b"?" + target.query if target.query else b"")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, cast(Any, _Request(self, cycle, app)))

    def _limit_head(self) -> asyncio.TimerHandle:
        timeout_s: float = self.config.request_timeout_s  # type: ignore[attr-defined]
        return asyncio.get_running_loop().call_later(timeout_s, self._close_late)

    def _close_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _Request:
    """The app, called for one request with the differences that ``HttpProtocol`` makes for requests."""

    __slots__ = ("_app", "_connection", "_cycle", "_unbounded", "_whole")

    def __init__(self, connection: HttpProtocol, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        self._connection = connection
        self._cycle = cycle
        self._app = app
        self._whole = False
        self._unbounded = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = self._send
        if scope["http_version"] == "1.0":
            send = self._send_close_delimited
        else:
            scope[WRITE_NOW] = self._write_now
        await self._app(scope, self._receive, send)
        if scope.get("state", {}).get(BREAK_LINE):
            # uvicorn sends nothing more to a client that has left.
            self._cycle.disconnected = True
            self._cycle.transport.abort()
        if self._cycle.disconnected and not self._cycle.transport.is_closing():
            self._cycle.transport.close()

    async def _receive(self) -> Message:
        """The body, then the end of the connection; a client that closed its side has left."""
        message: Any = None
        if not (self._whole and self._connection.client_left):
            message = await self._cycle.receive()
        if self._whole and self._connection.client_left:
            # From here on nothing is sent.
            self._cycle.disconnected = True
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        return cast(Message, message)

    async def _send(self, message: Any) -> None:
        """Send; a connection that closes before the request has been read is closed by ``HttpProtocol`` and not by uvicorn."""
        cycle = self._cycle
        begins = message["type"] == "http.response.start"
        if begins and cycle.waiting_for_100_continue:
            # The client may send the body or not, so the next bytes cannot be told from a request.
            cycle.keep_alive = False
        try:
            await cycle.send(message)
        except RuntimeError:
            # uvloop raises it for a write on a connection that was closed a moment before: the client has left.
            if not cycle.transport.is_closing():
                raise
            cycle.disconnected = True
            return
        if begins and not cycle.keep_alive and cycle.more_body:
            cycle.keep_alive = self._connection.lingers = True

    def _write_now(self, body: bytes) -> bool:
        """Send a piece of a body if the connection has room. Returns whether the piece was sent."""
        cycle = self._cycle
        if cycle.flow.write_paused or cycle.disconnected:
            return False
        return at_once(cycle.send({"type": "http.response.body", "body": body, "more_body": True}))

    async def _send_close_delimited(self, message: Any) -> None:
        """Send to an HTTP/1.0 client. uvicorn would chunk an answer without a length; this one ends with the connection."""
        if message["type"] == "http.response.start":
            names = [name.lower() for name, _ in message.get("headers", ())]
            self._unbounded = b"content-length" not in names
            if self._unbounded:
                self._cycle.chunked_encoding = False
        elif self._unbounded:
            # uvicorn compares each piece with what is left of the length.
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)


class _Frames(ServerProtocol):
    """The reader of frames in websockets, for which a close in the middle of a fragmented message is a protocol error.

    RFC 6455, section 5.4: a control frame may come between two fragments. (Autobahn's case 7.1.5.)
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with ten differences.

    - A close between two fragments of a message is answered with the close code that it has.
    - The frames that are sent within one turn of the event loop are one write.
    - A stopping server leaves the close to the app, which receives ``websocket.disconnect`` with 1012.
    - A peer that does not answer pings is dropped even when it does not read.
    - A message of more than 4,096 fragments closes the connection with 1009.
    - Until the app has authenticated the client, a message of more than 64 KiB closes it, too.
    - A handshake with more than 128 headers, or with one of more than 8 KiB, is answered with 431.
    - A connection whose frames cannot be read is closed also before the handshake has ended.
    - The queue of the messages for the app is smaller.
    - Text frames can be written without waiting, while the connection has room.
    """

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = _Frames(max_size=config.ws_max_size, logger=self.logger)
        self.queue = ReceivedMessages()  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._joining = _JoiningTransport(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(self._joining)
        self._max_message_bytes = self.conn.max_message_size
        self.conn.max_message_size = _MAX_TICKET_BYTES

    def data_received(self, data: bytes) -> None:
        if self.conn.max_message_size != self._max_message_bytes and self._authenticated():
            self.conn.max_message_size = self._max_message_bytes
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.close_sent = True
            self.transport.write(STATUS_LINE[431] + _NO_CONTENT)
            self.transport.close()

    def _authenticated(self) -> bool:
        """Whether the app waits for no ticket. Our app says so in the scope's state; another app has no tickets."""
        return self.handshake_complete and not self.close_sent and self.scope["state"].get("authenticated", True)

    async def run_asgi(self) -> None:
        self.scope[WRITE_NOW] = self._write_now  # type: ignore[literal-required]
        await super().run_asgi()

    def _write_now(self, texts: Sequence[str]) -> int:
        """Send text frames while the connection has room. Returns how many were sent, from the first one on."""
        sent, is_open = 0, self.conn.state is State.OPEN and not (self.close_sent or self.disconnected)
        while is_open and sent < len(texts) and self.writable.is_set():
            for text in texts[sent : sent + _FRAMES_A_WRITE]:
                self.conn.send_text(text.encode())
            self._joining.write_whole(b"".join(self.conn.data_to_send()))
            sent = min(sent + _FRAMES_A_WRITE, len(texts))
        return sent

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:
            # What the app sends from here on is refused, as it is for every client that has left.
            self.handshake_complete = self.disconnected = True
            self.transport.abort()
        else:
            super().handle_parser_exception()

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012, "reason": None})

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < _MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "payload_too_large")
            self.handle_parser_exception()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


class _JoiningTransport(asyncio.Transport):
    """A transport that joins what is written within one turn of the event loop into one write."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def write(self, data: Any) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= _WRITE_BYTES:
            self._flush()

    def write_whole(self, data: bytes) -> None:
        """Write, at once if nothing waits that ``data`` could be joined with."""
        if self._unsent:
            self.write(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._unsent.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
