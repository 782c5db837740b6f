"""How a request arrived, after every proxy on its way: what ``/echo`` and the RPC ``Echo`` answer.

It shows what a proxy added, changed and removed, and nothing that may be a secret: of a header that is not on the list
only the name and the length are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from shared.server.context import ServerContext

_SHOWN = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "incremental",
        "last-event-id",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    }
)
_SHOWN_PREFIXES = ("x-accel-", "x-forwarded-")


class Echo(msgspec.Struct, frozen=True):
    """One request as the server received it. ``headers``: name and value, in the order of their arrival."""

    method: str
    http_version: str
    headers: Sequence[Annotated[Sequence[str], msgspec.Meta(min_length=2, max_length=2)]]
    body_bytes: int


def echo_enabled(context: ServerContext) -> bool:
    """Whether this server answers: as PROBE says, and where PROBE is unset, if the offline model answers the chat."""
    probe = context.settings.probe
    return context.service.about()["provider"] == "offline" if probe is None else probe


def shown(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers with the values that may be seen. Of another header the value is its length, ``(44 characters)``."""
    return [(name, value if _may_be_seen(name.lower()) else f"({len(value)} characters)") for name, value in headers]


def _may_be_seen(name: str) -> bool:
    return name in _SHOWN or name.startswith(_SHOWN_PREFIXES)
