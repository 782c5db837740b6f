"""Plays one chain: the turns of a conversation one after the other, through a timed relay, split into four spans a turn.

The spans add up to the time from asking to the terminal event. Client, relay and server share one clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from compare.lines.capture import PassedPiece
from compare.lines.faults import Faults
from compare.lines.relay import Relay
from compare.measuring.lanes import RunningLane
from compare.measuring.recording import now_ms
from protocols import TRANSPORTS
from shared.client.protocol import ChatClient, Item, Lost, Reconnected, Rewound
from shared.errors import ChatError, ConnectionLost
from shared.events import Chunk, TurnCompleted, TurnStarted
from shared.reply import Reply

# "sent": each turn sends the whole conversation in a new session. "kept": each turn sends its question to one session.
History = Literal["sent", "kept"]
# "new": each turn opens a connection. "kept": the turns of a chain share one connection, which the first turn opens.
Connection = Literal["new", "kept"]

CELLS: tuple[tuple[History, Connection], ...] = (("sent", "new"), ("sent", "kept"), ("kept", "new"), ("kept", "kept"))
_WORDS = "the quick brown fox jumps over the lazy dog and tells the model what it saw "


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSpec:
    """A chain that every wire plays in the same way. Each question has ``question_bytes``, each reply ``reply_tokens`` tokens."""

    turns: int
    question_bytes: int
    reply_tokens: int
    history: History
    connection: Connection
    faults: Faults


class TurnSpans(msgspec.Struct, kw_only=True):
    """One turn in four spans, ms.

    ``to_server``: asked → the last byte of the request is written to the server. ``server``: → the first token is appended to the
    log. ``model``: → the terminal event is appended. ``back``: → the client has the terminal event.
    """

    to_server: float
    server: float
    model: float
    back: float
    up_bytes: int
    down_bytes: int

    @property
    def whole(self) -> float:
        """Asked → the client has the terminal event."""
        return self.to_server + self.server + self.model + self.back


class Chain(msgspec.Struct, kw_only=True):
    """A chain that was played; ``error`` says why it ended early. ``connections`` counts those that the relay saw."""

    wire: str
    history: History
    connection: Connection
    rtt_ms: float
    tls: bool
    round: int
    turns: list[TurnSpans]
    connections: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Heard:
    """What a client heard of one turn, epoch ms; a whole reply has no times of the log."""

    asked: float
    turn_id: str = ""
    started: float | None = None
    first: float | None = None
    ended: float | None = None
    done: float = 0.0
    text: str = ""

    def hear(self, item: Item) -> None:
        match item:
            case Reply():
                self.turn_id, self.text = item.turn_id, item.text
            case TurnStarted():
                self.turn_id, self.started = item.turn_id, item.at
            case Chunk():
                self.first, self.text = self.first or item.at, self.text + item.text
            case TurnCompleted():
                self.ended = item.at
            case Lost() | Reconnected() | Rewound():
                raise ConnectionLost("the connection was lost in a chain")
        self.done = now_ms()


async def play(lane: RunningLane, spec: ChainSpec, number: int, *, rtt_ms: float, tls: bool) -> Chain:
    """Play one chain on a server without a relay of its own. A failure becomes the chain's ``error``."""
    chain = Chain(
        wire=lane.lane.name,
        history=spec.history,
        connection=spec.connection,
        rtt_ms=rtt_ms,
        tls=tls,
        round=number,
        turns=[],
    )
    async with Relay(lane.address, spec.faults, timed=True) as relay:
        through = replace(lane, address=lane.address.replace(lane.address.rpartition("/")[2], relay.address))
        try:
            heard = await _turns(through, spec)
            for one in heard:
                if not lane.lane.tokens:
                    await _read_log(lane, one)
                if one.ended is None:
                    raise ConnectionLost("a turn did not complete")
        except (ChatError, ConnectionLost) as error:
            chain.error = str(error)
            return chain
        chain.connections = len(relay.connections)
        chain.turns = [spans(one.asked, one.started, one.first, one.ended, one.done, relay.passed) for one in heard]
    return chain


async def _turns(lane: RunningLane, spec: ChainSpec) -> list[_Heard]:
    session_id: str | None = None
    if spec.history == "kept":
        async with TRANSPORTS[lane.lane.word].client(lane.server.url, ca=lane.server.ca) as direct:
            session_id = (await direct.create_session()).session_id
    said: list[str] = []
    heard: list[_Heard] = []
    async with contextlib.AsyncExitStack() as stack:
        kept: ChatClient | None = None
        for number in range(spec.turns):
            question = _question(number, spec.question_bytes)
            conversation = "\n".join((*said, question)) if spec.history == "sent" else question
            message = f"/tokens {spec.reply_tokens} {conversation}"
            # The client is made before the clock starts: a trust store takes longer to read than a turn.
            made = lane.client(resume=False) if kept is None else None
            one = _Heard(now_ms())
            if made is not None:
                client = await stack.enter_async_context(made)
            else:
                assert kept is not None
                client = kept
            async with aclosing(client.chat(message, session_id=session_id)) as items:
                async for item in items:
                    one.hear(item)
            heard.append(one)
            said += [f"user: {question}", f"model: {one.text}"]
            if spec.connection == "new":
                await stack.aclose()
            else:
                kept = client
    return heard


async def _read_log(lane: RunningLane, one: _Heard) -> None:
    """Add the times of a turn's log, read past the relay: a whole reply does not say them."""
    done = one.done
    client = TRANSPORTS["rest"].client(lane.server.url, poll=True, ca=lane.server.ca)
    async with client, aclosing(client.read(one.turn_id)) as log:
        async for item in log:
            one.hear(item)
    one.done = done


def spans(
    asked: float,
    started: float | None,
    first: float | None,
    ended: float | None,
    done: float,
    passed: Sequence[PassedPiece],
) -> TurnSpans:
    """The spans of a turn from its times (epoch ms) and the pieces that passed the relay meanwhile."""
    assert started is not None and first is not None and ended is not None
    during = [piece for piece in passed if asked <= piece.written_ms and piece.read_ms <= done]
    up = [piece for piece in during if piece.direction == "up"]
    arrived = max((piece.written_ms for piece in up if piece.written_ms <= started), default=asked)
    return TurnSpans(
        to_server=arrived - asked,
        server=first - arrived,
        model=ended - first,
        back=done - ended,
        up_bytes=sum(piece.size for piece in up),
        down_bytes=sum(piece.size for piece in during if piece.direction == "down"),
    )


def _question(number: int, size: int) -> str:
    text = f"Question {number + 1}: "
    return (text + _WORDS * (size // len(_WORDS) + 1))[:size]
