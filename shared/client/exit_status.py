"""The exit statuses of the client programs, and the one line on stderr that says why."""

from __future__ import annotations

import sys

from shared.client import text

DONE, FAILED, ABSENT, INTERRUPTED = 0, 1, 2, 130
# What a user does about ``unauthenticated``: the error's own words are for those who write a client.
KEY_ADVICE = "set API_SECRET_KEY to the server's key, or start this client with --key"


def fail(line: str, status: int = FAILED) -> int:
    """Write why the program fails, and return its exit status. On a terminal nothing in the line makes the terminal act."""
    sys.stderr.write(f"{text.visible(line) if sys.stderr.isatty() else line}\n")
    return status
