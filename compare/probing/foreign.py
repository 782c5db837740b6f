"""The probe for servers that are not of this project: the checks that need no stamps.

An address with a path is a foreign stream: a GET, or with a body a POST (an OpenAI-style API), whose answer is
``text/event-stream`` or JSON lines. A gRPC server is asked by reflection for the types of one server-streaming method. A foreign
server counts as a real model, so a request with a body is sent only with ``--allow-turns``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import pairwise

from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from compare.probing.checks.idle import IDLE_S
from compare.probing.checks.upload import SIZES_KIB
from compare.probing.frames import Answer, ForeignMessages, Frames, Lines, ServerSentEvents
from compare.probing.heard import Heard
from compare.probing.http1 import Http1Stream
from compare.probing.http2 import Http2
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import Stream, read_whole
from compare.probing.target import Target

FOREIGN_CHECKS = ("pace", "silence", "idle", "upload", "many")
MANY = 6
_ANSWER_S = 10.0
_ANNOUNCED_S = 2.0
_TOO_LARGE = 413
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# A stream that comes in fewer reads than this share of its events may be held.
_HELD_SHARE = 0.2
_MANY_EVENTS = 10


@dataclass(frozen=True, slots=True)
class Foreign:
    """One stream of a foreign server. ``body`` is JSON, for gRPC that of ``method``; empty for a GET."""

    target: Target
    body: str = ""
    method: str = ""

    @property
    def wire(self) -> str:
        """The word for the table."""
        return "grpc" if self.method else "foreign"

    async def open(self, *, gzip: bool = False) -> Stream:
        """Ask for the stream. Raises ServerAbsent, and ValueError for a gRPC method that the server does not have."""
        if self.method:
            return await self._call()
        stream = await Http1Stream.open(self.target)
        headers = [
            ("Accept", "text/event-stream, application/x-ndjson"),
            ("Accept-Encoding", "gzip" if gzip else "identity"),
        ]
        if self.body:
            headers.append(("Content-Type", "application/json"))
        method = "POST" if self.body else "GET"
        stream.send(self.target, method, self.target.path, headers, self.body.encode(), _Sniffed)
        return stream

    async def _call(self) -> Stream:
        request = await _request(self.target, self.method, self.body or "{}")
        return await (await Http2.open(self.target)).call(self.method, request, frames=ForeignMessages)


class _Sniffed(Frames):
    """The frames that the answer's media type names; Server-Sent Events where it names neither kind."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(heard)
        self._frames: Frames | None = None

    def feed(self, data: bytes) -> None:
        if self._frames is None:
            kind = self.heard.headers.get("content-type", "")
            self._frames = Lines(self.heard) if "json" in kind else ServerSentEvents(self.heard)
        self._frames.feed(data)


async def probe_foreign(foreign: Foreign, patience_s: float) -> AsyncGenerator[tuple[str, Outcome], None]:
    """The checks, each with its outcome."""
    heard = await read_whole(await foreign.open(gzip=True), patience_s)
    yield "pace", pace(foreign, heard)
    yield "silence", silence(foreign, heard, patience_s)
    yield "idle", await _idle(foreign)
    yield "upload", await _upload(foreign)
    yield "many", await _many(foreign)


def pace(foreign: Foreign, heard: Heard) -> Outcome:
    """Gaps and pieces; without stamps a stream that comes at once cannot be told from a model that is quick."""
    if not heard.events:
        words = f"no stream: {heard.words}"
        return Outcome(words, (Finding("refused", foreign.wire, words),) if heard.end in ("refused", "cut") else ())
    pieces = len({event.piece for event in heard.events})
    gaps = [later.arrived_s - earlier.arrived_s for earlier, later in pairwise(heard.events)]
    first_s = heard.events[0].arrived_s - heard.sent_s
    words = f"{len(heard.events)} events in {pieces} pieces, the first after {first_s:.1f} s"
    words += f", longest gap {max(gaps, default=0.0):.1f} s"
    coding = heard.headers.get("content-encoding")
    found = []
    if len(heard.events) >= _MANY_EVENTS and pieces <= _HELD_SHARE * len(heard.events):
        numbers = {"late_s": heard.last_s - heard.sent_s, "tokens": round(len(heard.events) / pieces), "pieces": pieces}
        found.append(Finding("held", foreign.wire, f"{words}: held, or generated at once", numbers))
    if coding:
        found.append(Finding("compressed", foreign.wire, f"the stream is compressed ({coding})", {"coding": coding}))
    return Outcome(words, tuple(found))


def silence(foreign: Foreign, heard: Heard, patience_s: float) -> Outcome:
    """The longest silence that passed by itself, and a cut after a silence."""
    if not heard.pieces:
        return Outcome("not judged: nothing came", judged=False)
    times = [heard.sent_s, *(at for at, _ in heard.pieces)]
    longest_s = max(later - earlier for earlier, later in pairwise(times))
    if heard.end == "cut":
        after_s = heard.ended_s - heard.last_s
        words = f"cut after {after_s:.1f} s of silence: {heard.words}"
        kind: tuple[Finding, ...] = (Finding("cut_in_silence", foreign.wire, words, {"after_s": after_s}),)
        if after_s < 1.0:
            numbers = {"after_s": heard.ended_s - heard.sent_s}
            kind = (Finding("cut_in_flow", foreign.wire, f"cut while data flowed: {heard.words}", numbers),)
        return Outcome(words, kind)
    beats = f", {len(heard.heartbeats)} heartbeats" if heard.heartbeats else ""
    more = f"; it went on after {patience_s:g} s" if heard.end == "open" else ""
    return Outcome(f"the longest silence was {longest_s:.1f} s{beats}{more}")


async def _idle(foreign: Foreign) -> Outcome:
    if foreign.method:
        return Outcome("not judged: HTTP/1.1 only", judged=False)
    stream = await Http1Stream.open(foreign.target)
    try:
        stream.send(foreign.target, "HEAD", foreign.target.path)
        # A HEAD's answer has the length of a body that does not come, so its head alone is read.
        await stream.read(_ANSWER_S, lambda found: found.status is not None)
        after_s = await stream.closed_within(IDLE_S)
    finally:
        await stream.leave()
    if after_s is None:
        return Outcome(f"open for {IDLE_S:g} s")
    words = f"an idle connection is closed after {after_s:.1f} s"
    return Outcome(words, (Finding("idle_closed", foreign.wire, words, {"after_s": after_s}),))


async def _upload(foreign: Foreign) -> Outcome:
    """Announce bodies and send none: a hop that reads ``Content-Length`` refuses a large one before it comes.

    The request stays incomplete, so that nothing is started. A hop that counts the bytes themselves is not seen.
    """
    if foreign.method:
        return Outcome("not judged: a gRPC request does not announce its size", judged=False)
    refusal = await _announced(foreign, SIZES_KIB[-1])
    if refusal is None:
        return Outcome(f"{SIZES_KIB[-1]:,} KiB are not refused by their announced size; no body was sent")
    low, high = -1, len(SIZES_KIB) - 1
    while high - low > 1:
        middle = (low + high) // 2
        found = await _announced(foreign, SIZES_KIB[middle])
        low, high, refusal = (middle, high, refusal) if found is None else (low, middle, found)
    passes = SIZES_KIB[low] if low >= 0 else 0
    words = f"between {passes:,} and {SIZES_KIB[high]:,} KiB: {refusal}"
    return Outcome(words, (Finding("upload_limit", foreign.wire, words, {"kib": SIZES_KIB[high]}),))


async def _announced(foreign: Foreign, kib: int) -> str | None:
    """How a body of this size was refused by its announcement; None when it was not."""
    stream = await Http1Stream.open(foreign.target)
    headers = (("Content-Type", "application/json"), ("Content-Length", str(kib * 1024)))
    method = "POST" if foreign.body else "GET"
    try:
        stream.send(foreign.target, method, foreign.target.path, headers, expect=True)
        heard = await stream.read(
            _ANNOUNCED_S, lambda found: found.status is not None or stream.continued_s is not None
        )
    finally:
        await stream.leave()
    if heard.status != _TOO_LARGE:
        return None
    heard.finish("refused")
    return heard.words


async def _many(foreign: Foreign) -> Outcome:
    """A few at once: only for a GET, because each of the others would be paid."""
    if foreign.body or foreign.method:
        return Outcome("not judged: each stream would be paid", judged=False)
    streams = await asyncio.gather(*(foreign.open() for _ in range(MANY)))
    try:
        heards = await asyncio.gather(*(stream.read(_ANSWER_S, _began) for stream in streams))
    finally:
        await asyncio.gather(*(stream.leave() for stream in streams))
    running = sum(bool(heard.events) for heard in heards)
    words = f"{running} of {MANY} at once"
    if running in (0, MANY):
        return Outcome(words, judged=running == MANY)
    return Outcome(words, (Finding("few_at_once", foreign.wire, words, {"streams": running}),))


def _began(heard: Heard) -> bool:
    return bool(heard.events)


async def _request(target: Target, method: str, body: str) -> bytes:
    """The request of a server-streaming method, from JSON, with the types that the server's reflection gives."""
    service, _, name = method.rpartition("/")
    pool = descriptor_pool.DescriptorPool()
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)]
    known: set[str] = set()
    files: list[descriptor_pb2.FileDescriptorProto] = []
    while asked:
        answer = await _reflect(target, asked.pop())
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            if file.name not in known:
                known.add(file.name)
                files.insert(0, file)
                asked += [
                    reflection_pb2.ServerReflectionRequest(file_by_filename=need)
                    for need in file.dependency
                    if need not in known
                ]
    for file in files:
        pool.Add(file)
    try:
        found = pool.FindServiceByName(service).methods_by_name[name]
    except KeyError:
        raise ValueError(f"the server has no method {method}") from None
    if not found.server_streaming or found.client_streaming:
        raise ValueError(f"{method} is not a server-streaming method")
    return json_format.Parse(json.dumps(json.loads(body)), GetMessageClass(found.input_type)()).SerializeToString()


async def _reflect(
    target: Target, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    connection = await Http2.open(target)
    stream = await connection.call(_REFLECTION, request.SerializeToString(), frames=Answer)
    heard = await read_whole(stream, _ANSWER_S)
    if not heard.body:
        raise ValueError(f"the server has no reflection: {heard.words}")
    return reflection_pb2.ServerReflectionResponse.FromString(heard.body)
