"""The error table as connectrpc's exception, which the library sends in the form of the client's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from protobuf.wkt import Any as Detail

from protocols.grpc.status import DETAILS, to_status
from shared.errors import ChatError


class Refused(ConnectError, grpc.aio.AbortError):
    """A call that ends with a status. The handlers expect one of the base classes, the library the other."""


def refused(code: grpc.StatusCode, words: str, trailing_metadata: Iterable[tuple[str, Any]] = ()) -> Refused:
    """A status of gRPC, with the details in its trailing metadata."""
    status = Status()
    for name, value in trailing_metadata:
        if name == DETAILS:
            status.ParseFromString(value)
    details = [ErrorDetail(Detail(type_url=one.type_url, value=one.value)) for one in status.details]
    return Refused(Code[code.name], words, details)


def refused_by_table(error: ChatError) -> Refused:
    """An error of the table."""
    status = to_status(error)
    return refused(status.code, status.details, status.trailing_metadata)
