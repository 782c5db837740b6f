"""One path on one wire, from the first check to the last: about ten seconds and the patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from compare.probing.checks import (
    answers,
    cache,
    idle,
    leaving,
    length,
    many,
    pace,
    rate,
    repeat,
    requests,
    servers,
    silence,
    upload,
)
from compare.probing.heard import now
from compare.probing.outcome import Finding, Outcome
from compare.probing.subject import Subject
from shared.errors import ServerAbsent

_ALL = ("rest", "ndjson", "sse", "websocket", "grpc", "grpc-web")
_HTTP = _ALL[:4]
_TOKENS = _ALL[1:]


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the live table. ``turns``: how many turns the check starts at the server when nothing has to be repeated.

    Checks of the same ``group`` run side by side. ``confirms_itself``: the check repeats what it found by its own rule.
    """

    name: str
    run: Callable[[Subject], Awaitable[Outcome]]
    wires: tuple[str, ...]
    group: int
    turns: int = 0
    confirms_itself: bool = False


CHECKS = (
    # What the check of the key finds changes the header that the next request uses, so a second run would find nothing.
    Check("key", requests.check_key, _ALL, 1, confirms_itself=True),
    Check("upgrade", requests.check_upgrade, ("websocket",), 2),
    Check("pace", pace.check, _ALL, 3, 2, confirms_itself=True),
    Check("servers", servers.check, _ALL, 4),
    Check("cursor", requests.check_cursor, _TOKENS, 4),
    Check("origin", requests.check_origin, _HTTP, 4),
    Check("cache", cache.check_questions, _HTTP, 4),
    Check("own turn", cache.check_turns, _ALL[:3], 4, 2),
    Check("headers", answers.check_headers, _ALL[:3], 4),
    Check("trailers", answers.check_trailers, _ALL[4:], 4, 1),
    Check("silence", silence.check, _ALL, 5, 2),
    Check("length", length.check, _TOKENS, 5, 1),
    Check("idle", idle.check, ("rest", "ndjson", "sse", "grpc", "grpc-web"), 5),
    Check("100-continue", requests.check_continue, _HTTP, 6),
    Check("upload", upload.check, _ALL, 7),
    Check("leaving", leaving.check, _ALL, 8, 1),
    Check("many", many.check, _ALL, 9, many.STREAMS),
    Check("repeat", repeat.check, ("rest",), 10, 2),
    Check("rate", rate.check, _ALL, 11),
)
# After one of these no request can pass, where one of these checks has found it.
_FATAL = frozenset(
    {"refused", "redirected", "path_changed", "host_changed", "rate_limited", "unreliable", "server_removed"}
)
_FATAL_CHECKS = frozenset({"key", "pace", "repeat"})


def checks_for(wire: str) -> list[Check]:
    """The checks of a wire, in their order."""
    return [check for check in CHECKS if wire in check.wires]


async def probe(subject: Subject, checks: Sequence[Check]) -> AsyncGenerator[tuple[Check, Outcome], None]:
    """Make the checks, and give each outcome when it is there. Raises ServerAbsent when nothing answers at the start."""
    turns_pass = True
    for group in sorted({check.group for check in checks}):
        side_by_side = [check for check in checks if check.group == group and (turns_pass or not check.turns)]
        for coming in asyncio.as_completed([_made(check, subject, first=group == 1) for check in side_by_side]):
            check, outcome = await coming
            turns_pass = turns_pass and not any(_ends_turns(finding, subject) for finding in outcome.findings)
            yield check, outcome
            if check.name in _FATAL_CHECKS and any(finding.kind in _FATAL for finding in outcome.findings):
                return


async def _made(check: Check, subject: Subject, *, first: bool) -> tuple[Check, Outcome]:
    try:
        return check, await _confirmed(check, subject)
    except ServerAbsent as error:
        if first:
            raise
        return check, Outcome(f"not judged: {error}", judged=False)


async def _confirmed(check: Check, subject: Subject) -> Outcome:
    """The outcome of a check. A finding that was made while this program was late must be made again."""
    begun_s = now()
    outcome = await check.run(subject)
    if check.confirms_itself or not outcome.findings or not subject.steadiness.worst_s(begun_s):
        return outcome
    again = await check.run(subject)
    kinds = {finding.kind for finding in outcome.findings}
    return replace(again, findings=tuple(finding for finding in again.findings if finding.kind in kinds))


def _ends_turns(finding: Finding, subject: Subject) -> bool:
    no_key = finding.kind == "key_removed" and subject.target.key_header == "Authorization"
    return no_key or finding.kind == "upgrade_refused"
