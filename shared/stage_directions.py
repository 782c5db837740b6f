"""Stage directions for the offline models: what a message or a prompt may begin with to make the model go wrong.

Any number of them may stand at the start, so that every failure of a provider can be seen on every transport without one:

=====================  ===============================================================================
``/tokens N``          exactly N tokens (at most 1,000,000), whatever ``OFFLINE_TOKENS`` says
``/slow S``            S seconds before the first token, besides ``OFFLINE_FIRST_TOKEN_MS``
``/think S``           reports thoughts for S seconds before the first token
``/stall S``           S seconds of silence in the middle of the reply
``/quiet S``           the same, and the turn's readers get no heartbeats meanwhile
``/bytes N``           pads each token with full stops to N bytes (at most 65,536, and 64 MiB in a reply)
``/drop``              breaks the lines of the turn's readers in this process before the first token
``/fail CODE``         fails with CODE after three tokens
``/fail-first CODE``   fails with CODE before the first token
=====================  ===============================================================================

The pings of a WebSocket and of an HTTP/2 connection belong to the connection and go on during ``/quiet``.
CODE is a ``model_*`` code of ``shared/errors.py`` or ``content_refused``; S is at most 3600. Anything else that starts with a
slash is an ordinary message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from shared.errors import ERRORS, ErrorCode

# The provider whose models follow stage directions.
OFFLINE = "offline"
MAX_TOKENS = 1_000_000
MAX_TOKEN_BYTES = 65_536
MAX_WAIT_S = 3600.0
FAIL_CODES: dict[str, ErrorCode] = {
    code: code for code in ERRORS if code.startswith("model_") or code == "content_refused"
}

# What each direction does, with the name of the value that follows it, as the shell's /help lists them.
DIRECTIONS: dict[str, tuple[str, str]] = {
    "tokens": ("N", "the reply has exactly N tokens"),
    "bytes": ("B", "each token has B bytes"),
    "slow": ("S", "the first token comes S seconds later"),
    "think": ("S", "the model thinks for S seconds before the first token"),
    "stall": ("S", "the reply is silent for S seconds in the middle"),
    "quiet": ("S", "the reply is silent for S seconds, without heartbeats"),
    "drop": ("", "the connection breaks before the first token"),
    "fail": ("CODE", "the reply fails with CODE after three tokens"),
    "fail-first": ("CODE", "the reply fails with CODE before the first token"),
}
_VALUES = {
    "N": f"a whole number from 1 to {MAX_TOKENS:,}",
    "B": f"a whole number from 1 to {MAX_TOKEN_BYTES:,}",
    "S": f"a number of seconds, at most {MAX_WAIT_S:g}",
    "CODE": f"one of {', '.join(FAIL_CODES)}",
}
# ``/drop`` has no value that could be wrong, so with anything but a blank behind it, it is an ordinary word.
_NAME = re.compile(r"\s*/(drop(?!\S)|(?:tokens|bytes|slow|think|stall|quiet|fail|fail-first)(?![\w-]))\s*(\S{0,40})")
_DIRECTION = re.compile(r"\s*/(?:(drop)|(tokens|bytes|slow|think|stall|quiet|fail|fail-first)\s+(\S{1,40}))(?:\s|$)")
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Stage:
    """A message without its stage directions, and the directions (``tokens`` and ``token_bytes`` 0: not given)."""

    message: str
    tokens: int = 0
    token_bytes: int = 0
    slow_s: float = 0.0
    think_s: float = 0.0
    stall_s: float = 0.0
    quiet_s: float = 0.0
    drop: bool = False
    fail: ErrorCode | None = None
    fail_first: ErrorCode | None = None


def directions(text: str) -> Stage:
    """Read the stage directions at the start of ``text``; a malformed direction stays in the message."""
    stage, rest = Stage(text), text
    while match := _DIRECTION.match(rest):
        name, value = match[1] or match[2], match[3] or ""
        if name == "drop":
            stage = replace(stage, drop=True)
        elif name == "tokens" and value.isdecimal() and 0 < int(value) <= MAX_TOKENS:
            stage = replace(stage, tokens=int(value))
        elif name == "bytes" and value.isdecimal() and 0 < int(value) <= MAX_TOKEN_BYTES:
            stage = replace(stage, token_bytes=int(value))
        elif name == "slow" and _SECONDS.fullmatch(value):
            stage = replace(stage, slow_s=min(float(value), MAX_WAIT_S))
        elif name == "think" and _SECONDS.fullmatch(value):
            stage = replace(stage, think_s=min(float(value), MAX_WAIT_S))
        elif name == "stall" and _SECONDS.fullmatch(value):
            stage = replace(stage, stall_s=min(float(value), MAX_WAIT_S))
        elif name == "quiet" and _SECONDS.fullmatch(value):
            stage = replace(stage, quiet_s=min(float(value), MAX_WAIT_S))
        elif name == "fail" and value in FAIL_CODES:
            stage = replace(stage, fail=FAIL_CODES[value])
        elif name == "fail-first" and value in FAIL_CODES:
            stage = replace(stage, fail_first=FAIL_CODES[value])
        else:
            break
        rest = rest[match.end() :]
    return replace(stage, message=rest.strip()) if rest is not text else stage


def direction_named(text: str) -> str:
    """The name of the stage direction with which ``text`` begins, well formed or not; empty where it begins with none."""
    match = _NAME.match(text)
    return match[1] if match else ""


def mistake(text: str) -> str:
    """A sentence on the mistake in the first stage direction that ``directions`` could not read; empty where there is none."""
    match = _NAME.match(directions(text).message)
    if match is None:
        return ""
    given = f", not {match[2]}" if match[2] else ""
    return f"/{match[1]} takes {_VALUES[DIRECTIONS[match[1]][0]]}{given}."
