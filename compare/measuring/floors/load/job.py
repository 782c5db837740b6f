"""What the load generator has to do, and what it has measured."""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["loop", "once", "idle", "burst"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A load on the server at ``address`` with process id ``pid``; ``wire`` is the word of a transport.

    With the wires ``marked-http1`` and ``marked-http2`` the request is ``body`` to ``path``, and ``protobuf`` says how the events
    of the answer are encoded. With ``whole-http2`` the answer is one event. A request without a body is a GET. ``ca``: the PEM
    file of the CA that signed the server's certificate; empty: no TLS. ``proxy_pid``: a proxy's process on the way to the server.

    Modes:

    - ``loop``: every stream asks again and again. The window is ``seconds`` long and begins ``warm_s`` after the first answers.
      It goes on, to eight times its length, until the server has used ``least_cpu_s``: on a busy machine a window by the clock
      alone holds next to nothing.
    - ``once``: every stream asks once. The window goes from the first event of the last stream to the end of all streams.
    - ``idle``: every stream asks once and no answer ends. The result has the server's memory.
    - ``burst``: every stream asks once, all at the same moment. The window ends when all answers have ended.
    """

    wire: str
    address: str
    pid: int
    proxy_pid: int | None = None
    mode: Mode
    streams: int
    message: str = ""
    turn_id: str | None = None
    path: str | None = None
    ca: str = ""
    body: bytes = b""
    content_type: str = ""
    protobuf: bool = False
    seconds: float = 3.0
    warm_s: float = 0.5
    least_cpu_s: float = 0.0
    stamps: bool = False
    spread_s: float = 0.0
    timeout_s: float = 120.0


class Result(msgspec.Struct, kw_only=True):
    """What happened inside the window; None: not measured here. ``cpu_s`` is the server's, ``load_cpu_s`` the generator's own.

    ``proxy_cpu_s`` is that of a proxy on the way, None where there is none.

    ``rss_bytes`` is the server's memory at the end of the window, in the mode ``idle`` what the streams added to it.
    """

    events: int
    turns: int
    seconds: float
    bytes: int
    cpu_s: float | None
    proxy_cpu_s: float | None
    load_cpu_s: float
    rss_bytes: int | None
    first_p50_ms: float | None
    ttft_p50_ms: float | None
    delay_p50_ms: float | None
    delay_p99_ms: float | None
