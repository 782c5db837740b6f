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


_ROWS = (
    ErrorKind("invalid_request", 422, "INVALID_ARGUMENT", False, "The request is not valid."),
    ErrorKind("unauthenticated", 401, "UNAUTHENTICATED", False, "A valid API key is required.", ws_close=4401),
    ErrorKind("permission_denied", 403, "PERMISSION_DENIED", False, "This origin or host is not allowed."),
    ErrorKind("session_not_found", 404, "NOT_FOUND", False, "There is no session with this id."),
    ErrorKind("turn_not_found", 404, "NOT_FOUND", False, "There is no turn with this id."),
    ErrorKind("image_not_found", 404, "NOT_FOUND", False, "There is no image with this id."),
    ErrorKind("turn_in_progress", 409, "ABORTED", True, "A turn is running in this session; wait for it or cancel it."),
    ErrorKind("turn_not_completed", 409, "ABORTED", False, "The turn ended before the picture was whole."),
    ErrorKind("idempotency_key_reused", 422, "INVALID_ARGUMENT", False, "This key was used for another request."),
    ErrorKind("cursor_out_of_range", 422, "OUT_OF_RANGE", False, "The cursor is beyond the last event of the turn."),
    ErrorKind("turn_expired", 410, "OUT_OF_RANGE", False, "The events of this turn are no longer kept."),
    ErrorKind("cursor_lost", 409, "DATA_LOSS", True, "The store has lost events before this cursor; read from 0."),
    ErrorKind("payload_too_large", 413, "RESOURCE_EXHAUSTED", False, "The request is too large.", ws_close=1009),
    ErrorKind("unsupported_media_type", 415, "INVALID_ARGUMENT", False, "Send JSON.", ws_close=1003),
    ErrorKind("rate_limited", 429, "RESOURCE_EXHAUSTED", True, "Too many requests; slow down.", retry_after_s=1),
    ErrorKind("too_many_streams", 429, "RESOURCE_EXHAUSTED", True, "Too many streams are open.", retry_after_s=1),
    ErrorKind("model_not_found", 422, "INVALID_ARGUMENT", False, "The provider does not know this model."),
    ErrorKind("content_refused", 422, "FAILED_PRECONDITION", False, "The model refused this content (safety)."),
    ErrorKind("model_unauthorized", 502, "INTERNAL", False, "The provider refused this server's key."),
    ErrorKind("model_rate_limited", 503, "UNAVAILABLE", True, "The provider is limiting this server.", retry_after_s=5),
    ErrorKind("model_unavailable", 502, "UNAVAILABLE", True, "The provider failed to answer."),
    ErrorKind("model_timeout", 504, "DEADLINE_EXCEEDED", True, "The provider took too long."),
    ErrorKind("storage_unavailable", 503, "UNAVAILABLE", True, "The store cannot be used now.", retry_after_s=2),
    ErrorKind("shutting_down", 503, "UNAVAILABLE", True, "This server is shutting down.", ws_close=1012),
    ErrorKind("internal", 500, "INTERNAL", True, "Something went wrong in this server."),
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
