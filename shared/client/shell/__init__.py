"""The interactive client, the same for all five transports: what one types, what comes back, and what breaks on the way.

It talks to a ChatClient and knows no wire. ``run`` is the whole of its surface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.client.protocol import ChatClient
from shared.client.shell.completion import Words
from shared.client.shell.link import Link
from shared.client.shell.room import Room
from shared.client.shell.screen import Pipe, Screen, Terminal, is_terminal
from shared.client.shell.shell import Shell, Transport
from shared.client.shell.turns import Turns
from shared.config import state_dir

__all__ = ["Transport", "run"]

HISTORY = "shell_history"


def _nothing_there(client: ChatClient) -> str:
    return f"nothing answers at {client.address}"


async def run(
    client: ChatClient,
    open_client: Callable[[str], ChatClient],
    transports: Mapping[str, Transport] | None = None,
    *,
    session_id: str | None = None,
    model_id: str | None = None,
    plain: bool = False,
    absent: Callable[[ChatClient], str] = _nothing_there,
) -> int:
    """Chat until the user leaves; the exit status: 0, or 1 when a pipe's line failed.

    ``client`` is not entered yet; the shell opens and closes it. ``open_client`` makes a client of a transport, also of the same
    one; ``transports`` is the table of where ``/switch`` can go (None: nowhere). ``session_id``: go on in this session;
    ``model_id``: the model of sessions made here. ``plain``: no Markdown. ``absent``: the line for a server that is not there.

    On a terminal no failure ends it. In a pipe, where nobody can start the server, ServerAbsent and what else hinders the beginning
    is raised.
    """
    words = Words()
    shell: Shell | None = None
    screen: Screen
    if is_terminal():
        screen = Terminal(
            plain=plain,
            completer=words,
            history=state_dir() / HISTORY,
            unrecorded=lambda: shell is not None and shell.asking,
        )
    else:
        screen = Pipe()
    link = Link(client, open_client, absent)
    room = Room(link, session_id=None, model_id=model_id, company=screen.interactive)
    turns = Turns(screen, link, room)
    shell = words.shell = Shell(screen, link, room, turns, transports or {})
    await shell.live(session_id)
    return 1 if turns.failed and not screen.interactive else 0
