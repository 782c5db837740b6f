"""One played script as moments in order: what the relay saw, joined with what the server's log says of the model and the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

from compare.lines.steps.read import steps
from compare.lines.steps.step import Step
from sequence_diagrams.script import CUTTING, RETURNING, SIGKILL, Mark, Stage

# Participants: the client, the server, the store, the model.
C, S, D, M = "C", "S", "D", "M"
_STREAMING = ("SendMessage", "GenerateImage", "ResumeTurn", "GetImage")
_HEADERS = ("idempotency-key", "last-event-id", "sec-websocket-protocol", "location", "content-location", "turn_id")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHOWN = (
    "status",
    "message",
    "session_id",
    "turn_id",
    "after",
    "last_seq",
    "update_type",
    "message_count",
    "messages",
    "running_turn_id",
    "finish_reason",
    "usage",
    "text",
    "sha256",
    "code",
)
_HINT = "session_update"
_LONG_CHARS = 40
_LINE_CHARS = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An arrow from ``source`` to ``target``; a note where they are the same; a phase where ``colour`` is set.

    ``at`` orders; ``clock`` is the time where that is another.

    ``seq`` is set for what belongs to one chunk of the reply: the token, its commit, its way to the client.
    """

    at: float
    source: str = ""
    target: str = ""
    text: str = ""
    size: int = 0
    seq: int = 0
    lost: bool = False
    clock: float = 0.0
    colour: str = ""
    stream: tuple[int, int] | None = None


def moments(stage: Stage) -> list[Moment]:
    """Everything that happened, in order of time. Raises RuntimeError when a byte that passed is in no step."""
    found = steps(stage.relay.captured)
    for way, total in (("up", stage.relay.up_bytes), ("down", stage.relay.down_bytes)):
        accounted = sum(step.size for step in found if step.direction == way)
        cut_off = total - accounted
        if cut_off and not any(line.state == "cut" for line in stage.relay.connections):
            raise RuntimeError(f"{cut_off} bytes {way} are in no step")
    names = _names(found)
    wire = list(_wire(stage.word, found, names))
    cuts = list(_cuts(stage, found))
    everything = sorted([*_marks(stage.marks), *wire, *cuts, *_inside(stage, found)], key=lambda moment: moment.at)
    return _gathered(_ties(everything))


def _marks(marks: Iterable[Mark]) -> Iterator[Moment]:
    for mark in marks:
        yield Moment(at=mark.at, source=mark.where, target=mark.where, text=mark.text, colour=mark.colour)


# -- what passed the relay -----------------------------------------------------------------------------------------------


def _names(found: Sequence[Step]) -> dict[str, str]:
    """Ids by what they are, so that a reader recognises them: ``{session}``, ``{turn}``, ``{key}``."""
    names: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                kind = {"session_id": "session", "turn_id": "turn", "request_id": "key", "running_turn_id": "turn"}.get(
                    key
                )
                if kind and isinstance(inner, str) and _UUID.fullmatch(inner):
                    names.setdefault(inner, f"{{{kind}}}")
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    for step in found:
        look(step.payload)
        for name, value in step.headers:
            if name.lower() == "idempotency-key":
                names.setdefault(value, "{key}")
    return names


def _wire(word: str, found: Sequence[Step], names: dict[str, str]) -> Iterator[Moment]:
    """The steps as arrows: what belongs together (a call's headers, message and status) in one."""
    pending: dict[tuple[int, int, str], list[Step]] = {}
    methods: dict[tuple[int, int], str] = {}
    told: dict[tuple[int, int], float] = {}
    opening: dict[str, list[Step]] = {}
    first: dict[int, float] = {}
    for step in found:
        key = (step.connection, step.stream)
        if step.kind == "frame":
            # HTTP/2's own; shown once, where a connection opens.
            if step.name in ("preface", "SETTINGS"):
                opening.setdefault(f"{step.connection}{step.direction}", []).append(step)
                first.setdefault(step.connection, step.at)
                if step.name == "SETTINGS":
                    together = opening[f"{step.connection}{step.direction}"]
                    text = "preface, SETTINGS" if step.direction == "up" else "SETTINGS"
                    arrow = _arrow(step, text, sum(it.size for it in together), names)
                    # Either side may be first: neither waits for the other.
                    at = first[step.connection] + (0.0 if step.direction == "up" else 0.001)
                    yield replace(arrow, at=at, clock=step.at)
            continue
        if word != "grpc":
            if step.kind == "heartbeat" and step.name != "retry":
                continue
            if step.kind == "end":
                # The reader has all with the terminal event; when the rest of the body passes says nothing.
                step = replace(step, at=told[key] + 0.001)
            told[key] = step.at
            yield _arrow(step, _text(word, step), step.size, names)
            continue
        if step.kind == "close" and step.direction == "up":
            # A reader that has the terminal event resets the stream, if that has not ended by then.
            continue
        if step.kind == "request":
            methods[key] = step.name.rpartition("/")[2]
        group = pending.setdefault((*key, step.direction), [])
        group.append(step)
        streams = methods[key] in _STREAMING
        done = step.kind == "event" if step.direction == "up" else streams or step.kind in ("end", "close")
        if step.kind == "close" or (step.kind == "response" and "grpc-status" in step.name):
            done = True
        if done:
            pending[(*key, step.direction)] = []
            text = "<br/>".join(_text(word, it) for it in group if _text(word, it))
            last = group[-1]
            yield _arrow(replace(step, at=last.at), text, sum(it.size for it in group), names)


def _arrow(step: Step, text: str, size: int, names: dict[str, str]) -> Moment:
    for value, name in names.items():
        text = text.replace(value, name)
    text = _UUID.sub("{id}", text)
    source, target = (C, S) if step.direction == "up" else (S, C)
    seq = _seq(step) if step.name == "chunk" else 0
    return Moment(
        at=step.at, source=source, target=target, text=text, size=size, seq=seq, stream=(step.connection, step.stream)
    )


def _seq(step: Step) -> int:
    event = step.payload.get("event", step.payload)
    return int(event["seq"])


def _text(word: str, step: Step) -> str:
    """A step in the words of its wire."""
    heads = [
        f"{name}: {_short(value)}"
        for name, value in step.headers
        if name.lower() in _HEADERS and step.kind in ("request", "response")
    ]
    match step.kind:
        case "event" if word == "grpc":
            if step.direction == "down" and "seq" in step.payload:
                return f"DATA Event {{{step.name}, seq {step.payload['seq']}}}"
            return f"DATA {step.name} {_fields(step.payload)}".rstrip()
        case "event" if word == "sse":
            return f"event: {step.name}<br/>id: {step.payload['turn_id']}/{step.payload['seq']}"
        case "event" if word == "websocket":
            seq = f", seq: {step.payload['seq']}" if "seq" in step.payload else ""
            fields = "" if seq else _fields(step.payload)[1:-1]
            inner = f"type: {step.name}{seq}" + (f", {fields}" if fields else "")
            return f"text frame{'<br/>' if len(inner) > _LONG_CHARS else ' '}{{{inner}}}"
        case "event":
            return f"{{type: {step.name}, seq: {step.payload['seq']}, …}} LF"
        case "heartbeat":
            return step.raw.decode().strip()
        case "end" if word == "grpc":
            return f"trailers {step.name}"
        case "end":
            return "the last HTTP chunk: the body ends"
        case "close" if word == "websocket":
            return f"close frame {step.name.removeprefix('close ')}".rstrip()
        case "request" if word == "grpc":
            return f"HEADERS {step.name.rpartition('.')[2]}"
        case "response" if word == "grpc":
            return " ".join(["HEADERS", step.name, *heads])
        case "request" if any(name.lower() == "upgrade" for name, _ in step.headers):
            return "<br/>".join([f"{step.name}, Upgrade: websocket", *heads])
        case "response" if _streams(step):
            return "<br/>".join([f"{step.name}, {_header(step, 'content-type').partition(';')[0]}", *heads])
        case _:
            body = _fields(step.payload) if step.payload else ""
            return "<br/>".join(part for part in (step.name, *heads, body) if part)


def _streams(step: Step) -> bool:
    return _header(step, "content-type").startswith(("application/x-ndjson", "text/event-stream"))


def _header(step: Step, wanted: str) -> str:
    return next((value for name, value in step.headers if name.lower() == wanted), "")


def _fields(payload: Any) -> str:
    """A body in short: the fields that matter here."""
    if not isinstance(payload, dict):
        return ""
    event = payload.get("event")
    if isinstance(event, dict):
        payload = event
    shown = [f"{name}: {_value(payload[name])}" for name in _SHOWN if payload.get(name) not in (None, "", {}, [])]
    return f"{{{_wrapped(shown)}}}" if shown else ""


def _wrapped(parts: Sequence[str]) -> str:
    """Parts on lines that are not too long for an arrow."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(_UUID.sub("{session}", lines[-1] + part)) > _LINE_CHARS:
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + part
    return ",<br/>".join(lines)


def _value(value: Any) -> str:
    match value:
        case list():
            return f"{len(value)} of them"
        case dict():
            return "{…}"
        case str():
            return _short(value)
        case _:
            return str(value)


def _short(text: str) -> str:
    if _UUID.search(text) or (text.isascii() and len(text) <= _LONG_CHARS):
        return text
    return "…"


def _cuts(stage: Stage, found: Sequence[Step]) -> Iterator[Moment]:
    """Where a line broke, that the client was turned away for a while, and how it came back."""
    killed = next((mark for mark in stage.marks if mark.text == SIGKILL), None)
    broken = [line for line in stage.relay.connections if line.state == "cut"]
    if killed is not None:
        yield Moment(at=killed.at + 0.001, source=S, target=C, text="the line ends without a terminal event", lost=True)
    elif broken:
        (line,) = broken
        passed = [piece for piece in stage.relay.captured if piece.connection == line.number]
        text = f"{line.down_bytes} bytes of the answer, then the line is cut"
        if stage.word != "rest":
            text = "the line is cut before the next event"
        yield Moment(at=passed[-1].at + 0.001, source=S, target=C, text=text, lost=True)
        yield Moment(at=passed[-1].at + 0.002, text=CUTTING[stage.word], colour="red")
    else:
        return
    refused = [line.number for line in stage.relay.connections if line.state == "refused"]
    after = refused[-1] if refused else broken[-1].number
    first = next(step for step in found if step.connection > after)
    again = next((mark.at for mark in stage.marks if killed and mark.colour == "green"), first.at)
    if refused:
        text = "tries again: refused. Waits longer each time, with jitter"
        yield Moment(at=again - 0.003, source=C, target=S, text=text, lost=True)
    if killed is None:
        yield Moment(at=again - 0.002, text=RETURNING[stage.word], colour="green")


# -- what happened inside ------------------------------------------------------------------------------------------------


def _inside(stage: Stage, found: Sequence[Step]) -> Iterator[Moment]:
    """The server's own words about the model and the store (``--trace``)."""
    committed: set[int] = set()
    for line in (entry for log in stage.logs for entry in list(log)):
        at = datetime.fromisoformat(line["timestamp"]).timestamp() * 1000
        if at < stage.marks[0].at:
            continue
        match line["event"]:
            case "model asked":
                yield Moment(at=at, source=S, target=M, text="the conversation so far, and the message")
            case "model done" if line["how"] == "cancelled":
                yield Moment(at=at, source=S, target=M, text="stop: the request to the model is closed", lost=True)
            case "model done":
                yield Moment(at=at, source=M, target=S, text=f"the end of the reply ({line['how']})")
            case "stored":
                yield Moment(at=at, source=S, target=D, text=f"commit {line['what']}")
            case "event":
                seq = int(line["seq"])
                committed.add(seq)
                chunk = line["type"] == "chunk"
                if chunk:
                    yield Moment(at=float(line["at"]), source=M, target=S, text="a token", seq=seq)
                text = f"commit {line['type']}" + ("" if chunk else f", seq {seq}")
                yield Moment(at=at, source=S, target=D, text=text, seq=seq if chunk else 0)
    yield from _ended_by_another(stage, found, committed)


def _ended_by_another(stage: Stage, found: Sequence[Step], committed: set[int]) -> Iterator[Moment]:
    """The end that the next process gave a turn: its log begins after that, but the event says when it was appended."""
    again = next((mark for mark in stage.marks if mark.colour == "green"), None)
    if again is None or not any(mark.text == SIGKILL for mark in stage.marks):
        return
    for step in found:
        payload = step.payload if isinstance(step.payload, dict) else {}
        payload = payload.get("event", payload)
        if step.name == "turn_interrupted" or payload.get("status") == "interrupted":
            seq = int(payload.get("seq") or max(committed) + 1)
            # A client may have connected before; the server answers nobody before this.
            clock = float(payload.get("at") or 0.0)
            text = f"commit turn_interrupted, seq {seq}"
            yield Moment(at=again.at + 0.001, clock=clock, source=S, target=D, text=text)
            return


def _ties(ordered: list[Moment]) -> list[Moment]:
    """What the server sends on two streams at the same time has no order: the stream that was opened first goes first.

    But a hint about the session comes after the answer to who caused it.
    """
    result: list[Moment] = []
    opened: dict[tuple[int, int], int] = {}
    for moment in ordered:
        if moment.stream is not None:
            opened.setdefault(moment.stream, len(opened))
        result.append(moment)
        place = len(result) - 1
        while place > 0 and _swap(result[place - 1], moment, opened):
            result[place - 1 : place + 1] = [moment, result[place - 1]]
            place -= 1
    return result


def _swap(before: Moment, after: Moment, opened: dict[tuple[int, int], int]) -> bool:
    if before.stream is None or after.stream is None or before.source != S or after.source != S:
        return False
    if _HINT in before.text or _HINT in after.text:
        return _HINT not in after.text
    return opened[after.stream] < opened[before.stream]


def _gathered(ordered: list[Moment]) -> list[Moment]:
    """What concerns chunks in one place of each phase: where they were delivered, or, made while nobody read, after the cut.

    Tokens come while other things happen, and how they interleave with those says nothing: a chunk's own order is what counts.
    """
    phases = list(accumulate(int(moment.colour != "") for moment in ordered))
    chunks = [(moment, phase) for moment, phase in zip(ordered, phases, strict=True) if moment.seq]
    if not chunks:
        return ordered
    first = chunks[0][1]
    delivered = {moment.seq: phase for moment, phase in chunks if moment.target == C}
    loops: dict[int, list[Moment]] = {}
    for moment, phase in chunks:
        read = delivered.get(moment.seq, phase)
        loops.setdefault(phase if read == phase else max(phase, first + 1), []).append(moment)
    result: list[Moment] = []
    for phase in range(phases[-1] + 1):
        here = [moment for moment, its in zip(ordered, phases, strict=True) if its == phase]
        loop = loops.get(phase, [])
        at = min((moment.at for moment in loop if moment.target == C), default=loop[0].at if loop else 0)
        rest = [moment for moment in here if not moment.seq]
        before = [moment for moment in rest if moment.at <= at or moment.colour]
        result += [*before, *loop, *rest[len(before) :]] if loop else rest
    return result
