"""The lanes of the conformance tests: the five transports, and the further ways to reach their servers.

``LANES=all`` in the environment of ``tests/test_conformance.py`` plays everything over all lanes, ``LANES=sse,sse-h2`` over some.
"""

from __future__ import annotations

import os
from typing import Any

from compare.measuring.http2_sender import http2_sender
from compare.measuring.lanes import FURTHER_LANES, Lane, RunningLane
from protocols import TRANSPORTS
from protocols.processes import Server
from shared.client.protocol import ChatClient
from tests.parts import part

# REST over HTTP/2 is no lane of the comparison: a whole reply is one answer on either version.
_REST_H2 = Lane("rest-h2", "rest", {"sender": http2_sender}, http2=True, needs=("zttp", "pyqwest"))
FURTHER: dict[str, Lane] = {_REST_H2.name: _REST_H2, **FURTHER_LANES}
# The part of ``tests/parts.py`` that brings a package.
_PARTS = {"pyqwest": "connectrpc"}


def _chosen() -> tuple[str, ...]:
    asked = os.environ.get("LANES")
    if not asked:
        return tuple(TRANSPORTS)
    every = (*TRANSPORTS, *FURTHER)
    names = every if asked == "all" else tuple(asked.split(","))
    if unknown := set(names) - set(every):
        raise ValueError(f"LANES: there is no lane {', '.join(sorted(unknown))}; there are all, {', '.join(every)}")
    return names


LANES = _chosen()
# What servers need so that every lane reaches them.
SETTINGS = {"HTTP2": "on"} if any(FURTHER[name].http2 for name in LANES if name in FURTHER) else {}


def transport_of(name: str) -> str:
    """The word of the transport whose server a lane reaches."""
    return FURTHER[name].word if name in FURTHER else name


def lane_client(name: str, server: Server, **options: Any) -> ChatClient:
    """A client of a lane. The test is skipped where the lane's packages are missing."""
    if name not in FURTHER:
        return server.client(**options)
    lane = FURTHER[name]
    for package in lane.needs:
        part(_PARTS.get(package, package))
    url = server.page_url if lane.for_pages else server.url
    assert url is not None
    return RunningLane(lane, server, url).client(**options)
