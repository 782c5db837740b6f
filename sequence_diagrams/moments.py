"""A recording as moments in order: the steps that the relay saw, joined with the server's log of the model and the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

from compare.lines.steps.read import steps
from compare.lines.steps.step import Step
from sequence_diagrams.script import CUTTING, RETURNING, SIGKILL, TAKING_OVER, Mark, Recording
from sequence_diagrams.step_text import UUID, step_text

# The participants, by their short names in Mermaid.
CLIENT, BALANCER, SERVER, OTHER, STORE, MODEL = "C", "B", "S", "N", "D", "M"
_STREAMING = ("SendMessage", "GenerateImage", "ResumeTurn", "GetImage")
_HINT = "session_update"
# What the model gives for a picture: a preview, or a piece of it, with the event that names it.
PART = "a part of the picture"
_PICTURE_EVENTS = re.compile(r"\bimage_(?:started|chunk|completed)\b")

# The type and the first byte of the version of a TLS record that begins a handshake (RFC 8446, section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An arrow from ``source`` to ``target``, a note where both are the same, or the beginning of a phase where ``colour`` is set.

    ``at`` gives the order (epoch ms); ``clock`` is the time that is shown, where it is not ``at``. ``seq`` is set for a token, its
    commit and its delivery. ``stream`` is the connection and the stream on it.
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


def moments(recording: Recording) -> list[Moment]:
    """Everything that happened, in order of time. Raises RuntimeError when a byte that passed belongs to no step."""
    probes = _probes(recording)
    found = steps(piece for piece in recording.relay.captured if piece.connection not in probes)
    for direction, total in (("up", recording.relay.up_bytes), ("down", recording.relay.down_bytes)):
        accounted = sum(step.size for step in found if step.direction == direction)
        accounted += sum(
            len(piece.data)
            for piece in recording.relay.captured
            if piece.connection in probes and piece.direction == direction
        )
        cut_off = total - accounted
        if cut_off and not any(connection.state == "cut" for connection in recording.relay.connections):
            raise RuntimeError(f"{cut_off} bytes {direction} are in no step")
    names = _names(found)
    is_grpc = recording.word == "grpc"
    wire = list(_grpc_arrows(found, names) if is_grpc else _http_arrows(recording.word, found, names))
    cuts = list(_cuts(recording, found))
    everything = sorted(
        [*_marks(recording.marks), *wire, *cuts, *_inside(recording, found)], key=lambda moment: moment.at
    )
    ordered = _gathered(_ties(everything))
    return _on_nodes(ordered) if recording.balanced else ordered


def _probes(recording: Recording) -> set[int]:
    """The connections on which a client only asks whether a server of another kind answers there.

    A client asks so when its first connection breaks before an answer: with ``GET /health`` on a connection of its own, and then
    with the beginning of TLS. Where that falls between the steps depends on the moment of the cut, so no diagram shows it.
    """
    return {
        piece.connection
        for piece in recording.relay.captured
        if piece.direction == "up" and _asks_who_is_there(recording.word, piece.data)
    }


def _asks_who_is_there(word: str, data: bytes) -> bool:
    if word == "grpc":
        return data.startswith((b"GET ", _TLS_HANDSHAKE))
    lines = data.split(b"\r\n")
    alone = len(lines) == 5 and lines[0].startswith(b"GET /health ") and lines[2] == b"Connection: close"
    return alone or data.startswith(_TLS_HANDSHAKE)


def _on_nodes(ordered: list[Moment]) -> list[Moment]:
    """The moments with the participants of a cluster.

    What the client gets after the death of the first node is the balancer's own answer. When the client comes back, another
    node answers.
    """
    result: list[Moment] = []
    speaker = SERVER
    for moment in ordered:
        if moment.colour == "green":
            speaker = OTHER
        result.append(
            replace(
                moment,
                source=moment.source.replace(SERVER, speaker),
                target=moment.target.replace(SERVER, speaker),
            )
        )
        if moment.text == SIGKILL:
            speaker = BALANCER
    return result


def _marks(marks: Iterable[Mark]) -> Iterator[Moment]:
    for mark in marks:
        yield Moment(at=mark.at, source=mark.where, target=mark.where, text=mark.text, colour=mark.colour)


def _names(found: Sequence[Step]) -> dict[str, str]:
    """A name for each id: ``{session}``, ``{turn}`` or ``{key}``."""
    names: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                kind = {"session_id": "session", "turn_id": "turn", "request_id": "key", "running_turn_id": "turn"}.get(
                    key
                )
                if kind and isinstance(inner, str) and UUID.fullmatch(inner):
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


def _http_arrows(word: str, found: Sequence[Step], names: dict[str, str]) -> Iterator[Moment]:
    """The steps of HTTP/1.1 and of WebSockets as arrows."""
    ended: dict[tuple[int, int], float] = {}
    # Requests whose answers are not here, by their connections, and connections whose answer must say what it answers.
    waiting: dict[int, str] = {}
    side_by_side: set[int] = set()
    for step in _with_binary_frames(found):
        key = (step.connection, step.stream)
        if step.kind == "heartbeat" and step.name != "retry":
            continue
        if step.kind == "end":
            # The reader has finished at the terminal event, so the time of the last bytes says nothing.
            step = replace(step, at=ended[key] + 0.001)
        ended[key] = step.at
        text = step_text(word, step)
        if step.kind == "request":
            waiting[step.connection] = step.name.partition(" HTTP/")[0]
            side_by_side |= waiting.keys() if len(set(waiting.values())) > 1 else set()
        elif step.kind == "response":
            asked = waiting.pop(step.connection, "")
            if step.connection in side_by_side:
                text = text.replace(step.name, f"{step.name}, to {asked}", 1)
        yield _arrow(step, text, step.size, names)


def _with_binary_frames(found: Sequence[Step]) -> list[Step]:
    """The steps, with each binary frame of a WebSocket as a part of the text frame before it, which names its bytes."""
    result: list[Step] = []
    for step in found:
        before = next((i for i in range(len(result) - 1, -1, -1) if result[i].direction == step.direction), None)
        if step.name.startswith("binary, ") and before is not None:
            result[before] = replace(result[before], size=result[before].size + step.size)
            continue
        result.append(step)
    return result


def _grpc_arrows(found: Sequence[Step], names: dict[str, str]) -> Iterator[Moment]:
    """The steps of gRPC as arrows; the headers, message and status of a unary call share one arrow."""
    pending: dict[tuple[int, int, str], list[Step]] = {}
    methods: dict[tuple[int, int], str] = {}
    yield from _opening_arrows(found, names)
    for step in found:
        # A reader that has the terminal event resets a stream that has not ended by then, so a reset of the client says nothing.
        if step.kind == "frame" or (step.kind == "close" and step.direction == "up"):
            continue
        key = (step.connection, step.stream)
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
            text = "<br/>".join(text for each in group if (text := step_text("grpc", each)))
            yield _arrow(replace(step, at=group[-1].at), text, sum(each.size for each in group), names)


def _opening_arrows(found: Sequence[Step], names: dict[str, str]) -> Iterator[Moment]:
    """The preface and the SETTINGS of each HTTP/2 connection; its other frames are not shown."""
    first: dict[int, float] = {}
    sizes: dict[tuple[int, str], int] = {}
    for step in found:
        if step.kind != "frame" or step.name not in ("preface", "SETTINGS"):
            continue
        side = (step.connection, step.direction)
        sizes[side] = sizes.get(side, 0) + step.size
        begun = first.setdefault(step.connection, step.at)
        if step.name == "SETTINGS":
            text = "preface, SETTINGS" if step.direction == "up" else "SETTINGS"
            # Neither side waits for the other, so either may be first; the diagram shows the client first.
            at = begun + (0.0 if step.direction == "up" else 0.001)
            yield replace(_arrow(step, text, sizes[side], names), at=at, clock=step.at)


def _arrow(step: Step, text: str, size: int, names: dict[str, str]) -> Moment:
    for value, name in names.items():
        text = text.replace(value, name)
    text = UUID.sub("{id}", text)
    source, target = (CLIENT, SERVER) if step.direction == "up" else (SERVER, CLIENT)
    of_picture = _PICTURE_EVENTS.fullmatch(step.name) is not None
    seq = _seq(step) if step.name == "chunk" or of_picture else 0
    if of_picture:
        text = _PICTURE_EVENTS.sub("image_…", text)
    return Moment(
        at=step.at, source=source, target=target, text=text, size=size, seq=seq, stream=(step.connection, step.stream)
    )


def _seq(step: Step) -> int:
    event = step.payload.get("event", step.payload)
    return int(event["seq"])


def _cuts(recording: Recording, found: Sequence[Step]) -> Iterator[Moment]:
    """Where a connection broke, that new connections were refused for a while, and how the client came back."""
    killed = next((mark for mark in recording.marks if mark.text == SIGKILL), None)
    broken = [connection for connection in recording.relay.connections if connection.state == "cut"]
    if killed is not None:
        first = next((step for step in found if step.at > killed.at), None)
        if not recording.balanced or (first is not None and first.direction == "up"):
            text = "the line ends without a terminal event"
            yield Moment(at=killed.at + 0.001, source=SERVER, target=CLIENT, text=text, lost=True)
    elif broken:
        (connection,) = broken
        passed = [piece for piece in recording.relay.captured if piece.connection == connection.number]
        text = f"{connection.down_bytes} bytes of the answer, then the line is cut"
        if recording.word != "rest":
            text = "the line is cut before the next event"
        yield Moment(at=passed[-1].at + 0.001, source=SERVER, target=CLIENT, text=text, lost=True)
        yield Moment(at=passed[-1].at + 0.002, text=CUTTING[recording.word], colour="red")
    else:
        return
    if recording.balanced and killed is not None:
        first = next(step for step in found if step.at > killed.at and step.direction == "up")
        yield Moment(at=first.at - 0.002, text=TAKING_OVER[recording.word], colour="green")
        return
    refused = [connection.number for connection in recording.relay.connections if connection.state == "refused"]
    after = refused[-1] if refused else broken[-1].number
    first = next(step for step in found if step.connection > after)
    again = next((mark.at for mark in recording.marks if killed and mark.colour == "green"), first.at)
    if refused:
        text = "tries again: refused. Waits longer each time, with jitter"
        yield Moment(at=again - 0.003, source=CLIENT, target=SERVER, text=text, lost=True)
    if killed is None:
        yield Moment(at=again - 0.002, text=RETURNING[recording.word], colour="green")


def _inside(recording: Recording, found: Sequence[Step]) -> Iterator[Moment]:
    """What the server's log (``--trace``) says of the model and the store."""
    committed: set[int] = set()
    for line in (entry for log in recording.logs for entry in list(log)):
        at = datetime.fromisoformat(line["timestamp"]).timestamp() * 1000
        if at < recording.marks[0].at:
            continue
        match line["event"]:
            case "model asked":
                yield Moment(at=at, source=SERVER, target=MODEL, text="the conversation so far")
            case "model done" if line["how"] == "cancelled":
                yield Moment(at=at, source=SERVER, target=MODEL, text="stop: the request is closed", lost=True)
            case "model done":
                yield Moment(at=at, source=MODEL, target=SERVER, text=f"the end of the reply ({line['how']})")
            case "stored":
                yield Moment(at=at, source=SERVER, target=STORE, text=f"commit {line['what']}")
            case "event":
                seq = int(line["seq"])
                committed.add(seq)
                part = PART if _PICTURE_EVENTS.fullmatch(line["type"]) else "a token" if line["type"] == "chunk" else ""
                if part:
                    yield Moment(at=float(line["at"]), source=MODEL, target=SERVER, text=part, seq=seq)
                text = f"commit {_PICTURE_EVENTS.sub('image_…', line['type'])}" + ("" if part else f", seq {seq}")
                yield Moment(at=at, source=SERVER, target=STORE, text=text, seq=seq if part else 0)
    yield from _ended_by_another(recording, found, committed)


def _ended_by_another(recording: Recording, found: Sequence[Step], committed: set[int]) -> Iterator[Moment]:
    """The end that another server gave the turn: not in the server's log, but the event has the time of its append."""
    again = next((mark for mark in recording.marks if mark.colour == "green"), None)
    if not any(mark.text == SIGKILL for mark in recording.marks):
        return
    for step in found:
        payload = step.payload if isinstance(step.payload, dict) else {}
        payload = payload.get("event", payload)
        if step.name == "turn_interrupted" or payload.get("status") == "interrupted":
            seq = int(payload.get("seq") or max(committed) + 1)
            # A restarted server answers no one before this commit. A node that runs has a client that waits for it.
            at = again.at + 0.001 if again is not None else step.at - 0.001
            clock = float(payload.get("at") or 0.0)
            text = f"commit turn_interrupted, seq {seq}"
            yield Moment(at=at, clock=clock, source=SERVER, target=STORE, text=text)
            return


def _ties(ordered: list[Moment]) -> list[Moment]:
    """The moments with a fixed order where the real order is chance: the server sends on two streams at the same time.

    The stream that was opened first goes first. A hint about a session goes behind the answer to the request that caused it.
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
    if before.stream is None or after.stream is None or before.source != SERVER or after.source != SERVER:
        return False
    if _HINT in before.text or _HINT in after.text:
        return _HINT not in after.text
    return opened[after.stream] < opened[before.stream]


def _gathered(ordered: list[Moment]) -> list[Moment]:
    """The moments with all chunks of a phase in one place, because it is chance how tokens interleave with other things.

    The place is where the chunks were delivered. Chunks that were generated while nobody read stand behind the cut.
    """
    phases = list(accumulate(int(moment.colour != "") for moment in ordered))
    chunks = [(moment, phase) for moment, phase in zip(ordered, phases, strict=True) if moment.seq]
    if not chunks:
        return ordered
    first = chunks[0][1]
    delivered = {moment.seq: phase for moment, phase in chunks if moment.target == CLIENT}
    loops: dict[int, list[Moment]] = {}
    for moment, phase in chunks:
        read = delivered.get(moment.seq, phase)
        loops.setdefault(phase if read == phase else max(phase, first + 1), []).append(moment)
    result: list[Moment] = []
    for phase in range(phases[-1] + 1):
        here = [moment for moment, number in zip(ordered, phases, strict=True) if number == phase]
        loop = loops.get(phase, [])
        at = min((moment.at for moment in loop if moment.target == CLIENT), default=loop[0].at if loop else 0)
        rest = [moment for moment in here if not moment.seq]
        before = [moment for moment in rest if moment.at <= at or moment.colour]
        result += [*before, *loop, *rest[len(before) :]] if loop else rest
    return result
