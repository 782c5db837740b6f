"""Repeat: whether one request of the client becomes several turns at the server, because a hop sends it again.

The request names a session and has no idempotency key, so the session counts the turns.
"""

from __future__ import annotations

import asyncio

from compare.probing.http1 import as_json, fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject
from compare.probing.wires import Rest

_ERRORS = 500
# Where every second request fails, six in a row fail in 1 of 64 cases.
_ASKED = 6
_BETWEEN_S = 0.3
# By what the server does: the stage direction, and the words.
_CAUSES = {
    "/fail-first model_unavailable": "the server answered 502",
    "/drop /fail-first model_unavailable": "the server broke the connection",
}


async def check(subject: Subject) -> Outcome:
    """Ask for a reply that fails, in two ways. A hop may also stop passing requests on after such an error."""
    if subject.several_servers:
        return Outcome("not judged: several servers answer, each with sessions of its own", judged=False)
    found: list[Finding] = []
    for direction, words in _CAUSES.items():
        turns = await _turns_of_one_request(subject, direction)
        if not found and (refusal := await _refused_by_hop(subject)) is not None:
            measured = f"after {words} once, a hop refuses every request: {refusal}"
            return Outcome(measured, (Finding("server_removed", subject.wire.word, measured),))
        if turns is None and not found:
            return Outcome("not judged: no session can be made", judged=False)
        if turns is not None and turns > 1:
            measured = f"one request became {turns} turns after {words}"
            found.append(Finding("repeated", subject.wire.word, measured, {"turns": turns}))
    if not found:
        return Outcome("one request is one turn, also after a 502 and a broken connection")
    return Outcome("; ".join(finding.measured for finding in found), tuple(found[:1]))


async def _refused_by_hop(subject: Subject) -> str | None:
    """How a hop refuses a simple question, each time; None where an answer of the server arrives once."""
    for _ in range(_ASKED):
        heard = await subject.wire.authorized(subject.target)
        if heard.status is None or heard.status < _ERRORS or subject.wire.refused_by_server(heard) is not None:
            return None
        await asyncio.sleep(_BETWEEN_S)
    return heard.words


async def _turns_of_one_request(subject: Subject, direction: str) -> int | None:
    wire, target = subject.wire, subject.target
    assert isinstance(wire, Rest)
    session_id = as_json(await fetch(target, "POST", "/sessions", {})).get("session_id")
    if session_id is None:
        return None
    heard = await read_whole(await wire.turn(target, f"{direction} hello", session_id=session_id), GRACE_S)
    count = as_json(await fetch(target, "GET", f"/sessions/{session_id}")).get("user_messages")
    await fetch(target, "DELETE", f"/sessions/{session_id}")
    if not isinstance(count, int):
        return None
    # A repeat that comes while the first turn still runs is refused: it would be a turn of its own without a session.
    return count + (wire.refused_by_server(heard) == "turn_in_progress")
