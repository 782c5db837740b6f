"""Finding a session by the beginning of its id, which is all that lists and prompts show."""

from __future__ import annotations

from shared.client import text
from shared.client.protocol import ChatClient
from shared.errors import ChatError

_ID_CHARS = 36
_PAGE = 100
_MAX_PAGES = 10


async def find_session(client: ChatClient, beginning: str) -> str:
    """The id that begins so, among the newest thousand sessions. A whole id is returned as it is.

    Raises ``session_not_found`` when no id begins so, ``invalid_request`` when several do or ``beginning`` is empty.
    """
    if len(beginning) >= _ID_CHARS:
        return beginning
    if not beginning:
        raise ChatError("invalid_request", "The id of the session is empty; give the beginning of an id.")
    found: list[str] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_sessions(_PAGE, cursor)
        found += [each.session_id for each in page.sessions if each.session_id.startswith(beginning.lower())]
        cursor = page.next_cursor
        if cursor is None:
            break
    if len(found) > 1:
        raise ChatError(
            "invalid_request",
            f"{len(found)} sessions begin with {text.line(beginning, 40)}; give more characters of the id.",
        )
    if not found:
        raise ChatError("session_not_found", f"No session begins with {text.line(beginning, 40)}.")
    return found[0]
