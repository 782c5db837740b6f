"""The error table on gRPC, in both directions: ``to_status`` for servers, ``from_status`` for clients.

A refusal is a status with the error's message; google.rpc's ErrorInfo and RetryInfo are its details. The details travel as a
serialised ``google.rpc.Status`` in the trailing metadata ``grpc-status-details-bin`` (google.aip.dev/193).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status import rpc_status

from shared.errors import ERRORS, ChatError, ConnectionLost, NotOurServer, ServerAbsent

DOMAIN = "genai-protocols"
# The trailing metadata that holds a serialised google.rpc.Status.
DETAILS = "grpc-status-details-bin"
_LAST_SEQ = "last_seq"
# Statuses that the library or a proxy gives when the connection breaks.
_BROKEN = frozenset({"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED"})
# Where several codes have one status, the first row of the table counts.
_CODE_OF_STATUS = {row.grpc: row.code for row in reversed(ERRORS.values()) if row.grpc not in _BROKEN}
# What the library says of an answer without a gRPC status: that of a gateway, or of another server.
_HTTP_STATUS = re.compile(r"http2 header with status: (\d{3})")
_GATEWAY = frozenset({"502", "503", "504"})
# What the library says at times of such an answer with a body: it ends without trailers.
_NO_TRAILERS = "Data frame with END_STREAM flag received"
_NEVER_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")
# A server accepted the connection and it broke before HTTP/2 had begun: the server is lost, not absent.
_ACCEPTED = ("Socket closed", "recvmsg")


@dataclass(frozen=True)
class _Status(grpc.Status):
    code: grpc.StatusCode
    details: str
    trailing_metadata: Any


def to_status(error: ChatError) -> grpc.Status:
    """An error of the table as gRPC's status, with its trailing metadata."""
    details = [_packed(ErrorInfo(reason=error.code.upper(), domain=DOMAIN))]
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    number, _ = grpc.StatusCode[error.kind.grpc].value
    status = rpc_status.to_status(Status(code=number, message=error.message, details=details))
    last_seq = () if error.last_seq is None else ((_LAST_SEQ, str(error.last_seq)),)
    return _Status(status.code, status.details, (*status.trailing_metadata, *last_seq))


def from_status(error: grpc.aio.AioRpcError) -> ChatError | ConnectionLost:
    """A failed call as an exception: by the details of ``to_status``, else by the status that the library or a proxy gave."""
    words = error.details() or ""
    refusal = from_details(error.trailing_metadata(), words)
    if refusal is not None:
        return refusal
    status = error.code().name
    http = _HTTP_STATUS.search(words)
    if http is not None and http[1] in _GATEWAY:
        return ConnectionLost(f"a gateway answered {http[1]}")
    if http is not None and http[1].startswith("3"):
        return NotOurServer(
            f"the server speaks HTTP/2 and answers {http[1]}, a redirect; give the chat server's own address"
        )
    if http is not None and http[1] == "429":
        return ChatError("rate_limited", "A proxy, or another server, answered 429; wait, then try again.")
    if _NO_TRAILERS in words:
        return ConnectionLost("a gateway answered with plain HTTP")
    if status == "UNAVAILABLE" and words.startswith(_NEVER_CONNECTED) and not any(said in words for said in _ACCEPTED):
        return ServerAbsent("nothing answers there")
    if status in _BROKEN:
        return ConnectionLost(f"the connection broke ({status})")
    if status == "UNIMPLEMENTED":
        return NotOurServer("the server speaks HTTP/2, but it does not have the service chat.ChatService")
    return ChatError(
        _CODE_OF_STATUS.get(status, "internal"),
        f"The server answered {status}; try again. The server's log names the cause.",
    )


def from_details(trailing: Iterable[Any] | None, message: str) -> ChatError | None:
    """The error in a call's trailing metadata; None when the status was not made by ``to_status``."""
    code, retry_after_s, last_seq = "", None, None
    info, retry = ErrorInfo(), RetryInfo()
    for name, value in trailing or ():
        if name == _LAST_SEQ and value.isdecimal():
            last_seq = int(value)
        elif name == DETAILS:
            for detail in Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    code = info.reason.lower()
                elif detail.Unpack(retry):
                    retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return ChatError.received(code, message, retry_after_s=retry_after_s, last_seq=last_seq) if code else None


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """The library's exceptions in a client's call, as ChatError and ConnectionLost."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_status(error) from error
    except asyncio.CancelledError:
        # The library raises CancelledError in the reader of a call that ``cut`` or the end of the channel has cancelled.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionLost("the connection was cut") from None
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise ConnectionLost("the connection is closed") from error
    except msgspec.ValidationError as error:
        raise ConnectionLost("the server answered with a message that is malformed") from error


def _packed(detail: ErrorInfo | RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
