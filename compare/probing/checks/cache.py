"""Cache: whether a hop answers a request with the stored answer of an earlier one."""

from __future__ import annotations

from compare.probing.http1 import as_json, fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject


async def check_questions(subject: Subject) -> Outcome:
    """Ask twice for the statistics: ``uptime_s`` grows between two answers of the server."""
    uptimes = [as_json(await fetch(subject.target, "GET", "/stats")).get("uptime_s") for _ in range(2)]
    if None in uptimes:
        return Outcome("not judged: the statistics do not arrive", judged=False)
    if uptimes[0] != uptimes[1]:
        return Outcome("two equal questions get two answers")
    return _found(subject, "two GET requests got one answer")


async def check_turns(subject: Subject) -> Outcome:
    """Start two equal turns one after another, without a key: each has a ``turn_id`` of its own."""
    turns = []
    for _ in range(2):
        heard = await read_whole(await subject.wire.turn(subject.target, "/tokens 2 hello"), GRACE_S)
        turns.append(heard.turn_id or as_json(heard).get("turn_id"))
    if None in turns:
        return Outcome("not judged: no turn passes", judged=False)
    if turns[0] != turns[1]:
        return Outcome("two equal messages get two turns")
    return _found(subject, "two messages got one turn")


def _found(subject: Subject, words: str) -> Outcome:
    return Outcome(words, (Finding("cached", subject.wire.word, f"{words}: a hop has stored the first one"),))
