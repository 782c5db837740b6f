"""The error table on gRPC, both ways: a status, a message, and google.rpc's ErrorInfo and RetryInfo as its details.

The details travel as a serialised ``google.rpc.Status`` in the trailing metadata ``grpc-status-details-bin`` (google.aip.dev/193).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status import rpc_status

from shared.errors import ChatError

DOMAIN = "genai-protocols"


def to_status(error: ChatError) -> grpc.Status:
    """An error of the table as gRPC's status, with its trailing metadata."""
    details = [_packed(ErrorInfo(reason=error.code.upper(), domain=DOMAIN))]
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(_packed(RetryInfo(retry_delay=delay)))
    number, _ = grpc.StatusCode[error.kind.grpc].value
    return rpc_status.to_status(Status(code=number, message=error.message, details=details))


def from_details(trailing: Iterable[Any] | None, message: str) -> ChatError | None:
    """The error in a call's trailing metadata; None when the status was not made by ``to_status``."""
    code, retry_after_s = "", None
    info, retry = ErrorInfo(), RetryInfo()
    for name, value in trailing or ():
        if name == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    code = info.reason.lower()
                elif detail.Unpack(retry):
                    retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return ChatError.received(code, message, retry_after_s=retry_after_s) if code else None


def _packed(detail: ErrorInfo | RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
