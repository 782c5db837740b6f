"""Silence: after how many seconds without a token the path ends the stream, and whether heartbeats hold it.

Two turns fall silent at the same time: ``/stall`` lets the server's heartbeats through, ``/quiet`` does not.
A waiting REST request has no heartbeats: one long silence measures the path's limit for an answer.
"""

from __future__ import annotations

import asyncio

from compare.probing.heard import Heard, now
from compare.probing.http1 import as_json, fetch
from compare.probing.outcome import Finding, Outcome
from compare.probing.stream import read_whole
from compare.probing.subject import GRACE_S, Subject
from compare.probing.wires import Rest

# A stream that should go on and is silent for longer has gone silent.
_GONE_S = 5.0


async def check(subject: Subject) -> Outcome:
    """Be silent for the subject's patience."""
    if not subject.wire.tokens:
        return await _check_waiting(subject)
    stall, quiet = await asyncio.gather(_silent(subject, "stall"), _silent(subject, "quiet"))
    if not stall.events:
        return Outcome(f"not judged: {stall.words}", judged=False)
    if stall.end == "open":
        return unended(subject, stall)
    beats = [at for at in stall.heartbeats if at > stall.tokens[0].arrived_s]
    heartbeats = f"{len(beats)} heartbeats came" if beats else "no heartbeat came"
    if stall.end != "whole":
        silent_s = stall.ended_s - max(event.arrived_s for event in stall.events)
        words = f"cut after {silent_s:.1f} s of silence, {heartbeats}: {stall.words}"
        numbers = {"after_s": silent_s, "total_s": stall.ended_s - stall.sent_s}
        finding = Finding("cut_in_silence", subject.wire.word, words, numbers)
        return Outcome(words, (finding,))
    words = f"{subject.patience_s:g} s of silence pass, {heartbeats}"
    if quiet.end not in ("whole", "open") and quiet.events:
        silent_s = quiet.ended_s - max(event.arrived_s for event in quiet.events)
        words += f"; without heartbeats the path cuts after {silent_s:.1f} s"
    return Outcome(words)


async def _silent(subject: Subject, direction: str) -> Heard:
    message = f"/tokens 4 /{direction} {subject.patience_s:g} hello"
    return await read_whole(await subject.wire.turn(subject.target, message), subject.patience_s + GRACE_S)


def unended(subject: Subject, heard: Heard) -> Outcome:
    """The outcome for an answer that has not ended in its time: it has fallen silent, or it is slow."""
    silent_s = now() - heard.last_s
    if silent_s < _GONE_S:
        return Outcome("not judged: the answer is too slow to be read to its end", judged=False)
    words = f"after {len(heard.events)} events nothing more arrived, and the connection did not end"
    finding = Finding("gone_silent", subject.wire.word, words, {"events": len(heard.events)})
    return Outcome("nothing more arrived, and no end either", (finding,))


async def _check_waiting(subject: Subject) -> Outcome:
    """One reply that takes long. It belongs to a session, in which a hop's second request is refused while the first one runs."""
    wire, target = subject.wire, subject.target
    assert isinstance(wire, Rest)
    session = {} if subject.several_servers else as_json(await fetch(target, "POST", "/sessions", {}))
    message = f"/tokens 4 /slow {subject.patience_s:g} hello"
    heard = await read_whole(
        await wire.turn(target, message, session_id=session.get("session_id")), subject.patience_s + GRACE_S
    )
    if heard.end == "whole":
        return Outcome(f"a reply after {subject.patience_s:g} s arrives")
    if heard.end == "open":
        return unended(subject, heard)
    after_s = heard.ended_s - heard.sent_s
    words = f"no reply after {after_s:.1f} s: {heard.words}"
    cut = Finding("waiting_cut", wire.word, words, {"after_s": after_s})
    if wire.refused_by_server(heard) != "turn_in_progress":
        return Outcome(words, (cut,))
    words = f"a hop sent the request again after {after_s:.1f} s without an answer"
    return Outcome(words, (Finding("repeated", wire.word, words, {"turns": 2}), cut))
