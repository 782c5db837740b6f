"""Servers: whether a later request about a turn reaches a server that knows the turn."""

from __future__ import annotations

from compare.probing.heard import Heard
from compare.probing.http1 import as_json
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import GRACE_S, Subject

# Where each request is given to one of two servers by lot, eight requests meet both in 127 of 128 cases.
_ASKED = 8
_RPC_NOT_FOUND = 5
_NOT_FOUND = "turn_not_found"


async def check(subject: Subject) -> Outcome:
    """Come back to one turn on eight connections, one after another."""
    turn = subject.turn
    turn_id = None if turn is None else turn.turn_id or as_json(turn).get("turn_id")
    if turn_id is None:
        return Outcome("not judged: there is no turn to come back to", judged=False)
    unknown = 0
    for _ in range(_ASKED):
        stream = await subject.wire.resume(subject.target, turn_id, 0)
        try:
            heard = await stream.read(GRACE_S, lambda found: bool(found.events) or found.end != "open")
        finally:
            await stream.leave()
        unknown += _is_unknown(subject, heard)
    if not unknown:
        return Outcome(f"{_ASKED} requests reach a server that knows the turn")
    subject.several_servers = True
    words = f"{unknown} of {_ASKED} requests about a turn reach a server that does not know the turn"
    return Outcome(words, (Finding("several_servers", subject.wire.word, words, {"unknown": unknown, "of": _ASKED}),))


def _is_unknown(subject: Subject, heard: Heard) -> bool:
    if heard.end != "refused":
        return False
    codes = (subject.wire.refused_by_server(heard), heard.detail)
    return _NOT_FOUND in codes or (heard.rpc_status == _RPC_NOT_FOUND and codes[0] is not None)
