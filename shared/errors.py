"""The one error table: every server finds the status of a code here, and every client the code of a status.

HTTP statuses are RFC 9110's, the body is RFC 9457's problem+json; gRPC statuses are given by name (google.rpc.Code);
WebSocket close codes are RFC 6455 section 7.4's and the private 4xxx. Messages never carry a provider's or an exception's own text.

Every exception that a server answers with or that a client raises::

    ChatError            a refusal or a failed turn, with its row of the table
    ConnectionLost       only in clients: the connection broke, or a stream ended without its terminal event
      ├─ ServerAbsent    nothing answers at the address; nothing was sent
      ├─ NotOurServer    the address answers, but not as a server of this transport does; a retry changes nothing
      ├─ SentAway        the server ended the stream before the turn's end, as a server does that stops; the turn goes on
      ├─ Silent          nothing arrived in time, for the client or for a gateway; the server may still be at work
      └─ Corrupted       a reply does not have the sha256 that the server gave for it; a retry changes nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

ErrorCode = Literal[
    "invalid_request",
    "unauthenticated",
    "permission_denied",
    "session_not_found",
    "turn_not_found",
    "image_not_found",
    "turn_in_progress",
    "turn_not_completed",
    "idempotency_key_reused",
    "cursor_out_of_range",
    "turn_expired",
    "cursor_lost",
    "payload_too_large",
    "unsupported_media_type",
    "rate_limited",
    "too_many_streams",
    "model_not_found",
    "content_refused",
    "model_unauthorized",
    "model_rate_limited",
    "model_unavailable",
    "model_timeout",
    "storage_unavailable",
    "shutting_down",
    "internal",
]


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table. ``ws_close`` is None where the socket stays open after the ``error`` message."""

    code: ErrorCode
    http: int
    grpc: str
    retryable: bool
    message: str
    ws_close: int | None = None
    retry_after_s: float | None = None


# Each message says what happened, then what to do next.
_MESSAGES: dict[ErrorCode, str] = {
    "invalid_request": "The request is not valid; correct it, and send it again.",
    "unauthenticated": "A valid API key is required; send it as Authorization: Bearer KEY.",
    "permission_denied": "This origin or host is not allowed; add it to ALLOWED_ORIGINS.",
    "session_not_found": "There is no session with this id; start a new one.",
    "turn_not_found": "There is no turn with this id; check the id, or send the message again.",
    "image_not_found": "There is no image with this id; check the id, or draw the picture again.",
    "turn_in_progress": "A turn is running in this session; wait for its end, or cancel it.",
    "turn_not_completed": "The turn ended before the picture was whole; ask for it again, with a new key.",
    "idempotency_key_reused": "This idempotency key was used for another request; use a new key.",
    "cursor_out_of_range": "The cursor is beyond the last event of the turn; read from 0.",
    "turn_expired": "The events of this turn are no longer kept; read the session's messages.",
    "cursor_lost": "The store has lost events before this cursor; read from 0.",
    "payload_too_large": "The request is too large; shorten it.",
    "unsupported_media_type": "This is not JSON; send JSON, over HTTP with Content-Type: application/json.",
    "rate_limited": "Too many requests; wait a second, then try again.",
    "too_many_streams": "Too many streams are open; close one, or try again in a second.",
    "model_not_found": "The provider does not know this model; choose one from the list of models.",
    "content_refused": "The model refused this content (safety); ask in other words.",
    "model_unauthorized": "The provider refused this server's key; the server's operator must check the key.",
    "model_rate_limited": "The provider is limiting this server; try again in a few seconds.",
    "model_unavailable": "The provider failed to answer; try again.",
    "model_timeout": "The provider took too long; try again.",
    "storage_unavailable": "The store cannot be used now; try again in a few seconds.",
    "shutting_down": "This server is shutting down; connect again in a few seconds.",
    "internal": "Something went wrong in this server; try again. The server's log names the cause.",
}


def _row(
    code: ErrorCode,
    http: int,
    grpc: str,
    retryable: bool,
    *,
    ws_close: int | None = None,
    retry_after_s: float | None = None,
) -> ErrorKind:
    return ErrorKind(code, http, grpc, retryable, _MESSAGES[code], ws_close, retry_after_s)


_ROWS = (
    _row("invalid_request", 422, "INVALID_ARGUMENT", False),
    _row("unauthenticated", 401, "UNAUTHENTICATED", False, ws_close=4401),
    _row("permission_denied", 403, "PERMISSION_DENIED", False),
    _row("session_not_found", 404, "NOT_FOUND", False),
    _row("turn_not_found", 404, "NOT_FOUND", False),
    _row("image_not_found", 404, "NOT_FOUND", False),
    _row("turn_in_progress", 409, "ABORTED", True),
    _row("turn_not_completed", 409, "ABORTED", False),
    _row("idempotency_key_reused", 422, "INVALID_ARGUMENT", False),
    _row("cursor_out_of_range", 422, "OUT_OF_RANGE", False),
    _row("turn_expired", 410, "OUT_OF_RANGE", False),
    _row("cursor_lost", 409, "DATA_LOSS", True),
    _row("payload_too_large", 413, "RESOURCE_EXHAUSTED", False, ws_close=1009),
    _row("unsupported_media_type", 415, "INVALID_ARGUMENT", False, ws_close=1003),
    _row("rate_limited", 429, "RESOURCE_EXHAUSTED", True, retry_after_s=1),
    _row("too_many_streams", 429, "RESOURCE_EXHAUSTED", True, retry_after_s=1),
    _row("model_not_found", 422, "INVALID_ARGUMENT", False),
    _row("content_refused", 422, "FAILED_PRECONDITION", False),
    _row("model_unauthorized", 502, "INTERNAL", False),
    _row("model_rate_limited", 503, "UNAVAILABLE", True, retry_after_s=5),
    _row("model_unavailable", 502, "UNAVAILABLE", True),
    _row("model_timeout", 504, "DEADLINE_EXCEEDED", True),
    _row("storage_unavailable", 503, "UNAVAILABLE", True, retry_after_s=2),
    _row("shutting_down", 503, "UNAVAILABLE", True, ws_close=1012),
    _row("internal", 500, "INTERNAL", True),
)
ERRORS: dict[ErrorCode, ErrorKind] = {row.code: row for row in _ROWS}


class ChatError(Exception):
    """A row of the table with the words for this case: servers answer with it, and clients raise it.

    ``cause`` is for the log: what happened, such as an exception's type, without any text of another program.
    ``last_seq`` is given with ``cursor_lost``: the last seq of the turn as it is stored.
    ``http_status`` is given only where the row has two (``invalid_request``: 400 when the body is not JSON). A client that
    was sent a code which this table lacks keeps that code in ``code`` and treats the error as ``internal``; see ``received``.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        cause: str | None = None,
        last_seq: int | None = None,
    ) -> None:
        kind = ERRORS[code]
        self.kind = kind
        self.code: str = code
        self.message = message or kind.message
        self.http_status = http_status or kind.http
        self.retryable = kind.retryable
        self.retry_after_s = retry_after_s if retry_after_s is not None else kind.retry_after_s
        self.cause = cause
        self.last_seq = last_seq
        super().__init__(f"{code}: {self.message}")

    @classmethod
    def received(
        cls,
        code: str,
        message: str | None = None,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        last_seq: int | None = None,
    ) -> Self:
        """The error that another program sent by its code; a newer server may send a code that is not in this table."""
        error = cls(known_code(code), message, http_status=http_status, retry_after_s=retry_after_s, last_seq=last_seq)
        error.code = code
        error.args = (f"{code}: {error.message}",)
        return error


def known_code(code: str) -> ErrorCode:
    """The same code as a type that a checker knows; ``internal`` for a code that is not in the table."""
    return next((row.code for row in _ROWS if row.code == code), "internal")


class ConnectionLost(Exception):
    """A client's connection broke, or a stream ended without its terminal event. ``after``: the last seq that arrived."""

    def __init__(self, message: str, *, after: int = 0, turn_id: str | None = None) -> None:
        self.message = message
        self.after = after
        self.turn_id = turn_id
        super().__init__(message)


class ServerAbsent(ConnectionLost):
    """Nothing answers at the address; nothing was sent."""


class NotOurServer(ConnectionLost):
    """Something answers at the address, but not as a server of this transport does. The message says what it is."""


class SentAway(ConnectionLost):
    """See the tree above. The same server may send the client away again, so it waits longer before each further try."""


class Silent(ConnectionLost):
    """Nothing arrived for ``silence_s``, or for as long as a gateway waits. The server may still be at work."""


class Corrupted(ConnectionLost):
    """What arrived does not have the sha256 that the server gave for it."""
