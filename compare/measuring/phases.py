"""The phases of one turn, from the wish to ask to the first token, by the public hooks of each client library.

httpcore's ``trace`` extension tells TCP, TLS, request and head. The debug log of websockets tells the opening handshake, which
begins when TLS is done, and each frame. grpcio tells the state of a channel and, to an interceptor, the initial metadata.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from compare.measuring.formulas import ttfe, ttft
from compare.measuring.lanes import RunningLane
from compare.measuring.recording import TurnSpec, now_ms, record_turn
from compare.measuring.turns import TurnRecord
from shared.client.protocol import ChatClient
from shared.client.tls import client_context

_HTTP_MARKS = {
    "connection.connect_tcp.complete": "tcp",
    "connection.start_tls.complete": "tls",
    "http11.send_request_body.complete": "sent",
    "http11.receive_response_headers.complete": "first_byte",
}


@dataclass(slots=True)
class Marks:
    """The first moment of each phase since ``begun_ms``, in ms."""

    begun_ms: float = 0.0
    at: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """The user wishes to ask now."""
        self.begun_ms = now_ms()
        self.at.clear()

    def mark(self, phase: str) -> None:
        """A phase ends now; only the first time counts."""
        self.at.setdefault(phase, now_ms() - self.begun_ms)

    def add(self, turn: TurnRecord) -> None:
        """The two rungs that the turn itself tells."""
        for phase, value in (("first_event", ttfe(turn)), ("first_token", ttft(turn))):
            if value is not None and (phase != "first_event" or turn.of("turn_started")):
                self.at[phase] = turn.asked_at + value - self.begun_ms


class _TracedSender(httpx.AsyncBaseTransport):
    """httpx's own sender, whose requests carry httpcore's ``trace`` extension."""

    def __init__(self, ca: Path | None, marks: Marks) -> None:
        self._sender = httpx.AsyncHTTPTransport(verify=client_context(ca) if ca else False, trust_env=False)
        self._marks = marks

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": self._trace}
        return await self._sender.handle_async_request(request)

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in _HTTP_MARKS:
            self._marks.mark(_HTTP_MARKS[event])

    async def aclose(self) -> None:
        await self._sender.aclose()


class _WebSocketLog(logging.Handler):
    """Marks from the debug log of websockets: the states of a connection, then its first frames."""

    def __init__(self, marks: Marks, *, tls: bool) -> None:
        super().__init__()
        self._marks = marks
        self._tls = tls

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said == "= connection is CONNECTING":
            # asyncio makes the library's protocol object after TCP and before TLS.
            self._marks.mark("tcp")
        elif said.startswith("> GET ") and self._tls:
            self._marks.mark("tls")
        elif said == "= connection is OPEN":
            self._marks.mark("opened")
        elif said.startswith("> TEXT"):
            self._marks.mark("sent")
        elif said.startswith("< TEXT") and "sent" in self._marks.at:
            # The server's first frame, ``connected``, answers no request.
            self._marks.mark("first_byte")


@contextlib.contextmanager
def _listening(marks: Marks, *, tls: bool) -> Iterator[None]:
    logger, handler = logging.getLogger("websockets.client"), _WebSocketLog(marks, tls=tls)
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _FirstMetadata(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    """Marks the initial metadata of a call, which a server sends before its first message."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        await call.initial_metadata()
        self._marks.mark("first_byte")
        return call


def _client(lane: RunningLane, marks: Marks) -> ChatClient:
    """A new client of a lane whose library tells ``marks`` its phases, as far as it has hooks."""
    if lane.lane.page_client or "sender" in lane.lane.options:
        # connectrpc's client and pyqwest have none.
        return lane.client()
    if lane.lane.word == "grpc":
        return lane.client(interceptors=[_FirstMetadata(marks)])
    if lane.lane.word == "websocket":
        return lane.client()
    return lane.client(sender=lambda ca, silence_s: _TracedSender(ca, marks))


async def cold_and_warm(lane: RunningLane, spec: TurnSpec, number: int, *, tls: bool) -> dict[str, Marks]:
    """A turn of a new client, and a second turn on the same connection. Returns the marks of both, ``cold`` and ``warm``.

    Making the client, its TLS context included, is not measured. A turn that fails has no first token.
    """
    marks = Marks()
    client = _client(lane, marks)
    with _listening(marks, tls=tls):
        marks.begin()
        async with client:
            if lane.lane.word == "grpc":
                marks.mark("opened")
            marks.add(await record_turn(lane, client, spec, number=number))
            cold = Marks(marks.begun_ms, dict(marks.at))
            marks.begin()
            marks.add(await record_turn(lane, client, spec, number=number))
    return {"cold": cold, "warm": Marks(marks.begun_ms, dict(marks.at))}
