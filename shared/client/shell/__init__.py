"""The interactive client, the same for all transports. It calls a ChatClient and knows no wire. ``run`` starts it."""

from __future__ import annotations

from collections.abc import Callable

from shared.client.protocol import ChatClient
from shared.client.shell.active_client import ActiveClient
from shared.client.shell.commands import COMMANDS
from shared.client.shell.completion import CommandCompleter
from shared.client.shell.current_session import CurrentSession
from shared.client.shell.pipe import DumbTerminal, Pipe
from shared.client.shell.screen import Screen
from shared.client.shell.shell import Shell
from shared.client.shell.terminal import Terminal, is_terminal, moves_its_cursor
from shared.client.shell.turns import Turns
from shared.client.transport import Transports
from shared.config import state_dir

__all__ = ["run"]

HISTORY = "shell_history"


async def run(
    client: ChatClient,
    open_client: Callable[[str], ChatClient],
    transports: Transports,
    *,
    absent: Callable[[ChatClient], str],
    come_back: Callable[[ChatClient, str], str],
    session_id: str | None = None,
    model_id: str | None = None,
    plain: bool = False,
) -> int:
    """Chat until the user leaves. Returns the exit status: 0, or 1 when a line of a pipe failed.

    ``client``: not connected yet; the shell connects and closes it. ``open_client`` makes a client for a word of ``transports``,
    where ``/switch`` can go. ``absent``: the line for a server that does not answer. ``come_back``: the command that opens the
    shell again in a session. ``session_id``: the session to enter.
    ``model_id``: the model of sessions that the shell creates. ``plain``: show the source of Markdown.

    On a terminal no failure ends the shell. In a pipe no user could start the server, so a failure to connect is raised.
    """
    completer = CommandCompleter(COMMANDS)
    shell: Shell | None = None
    screen: Screen
    if is_terminal() and moves_its_cursor():
        screen = Terminal(
            plain=plain,
            completer=completer,
            history=state_dir() / HISTORY,
            unrecorded=lambda: shell is not None and shell.asking,
        )
    else:
        screen = DumbTerminal() if is_terminal() else Pipe()
    active = ActiveClient(client, open_client, absent)
    session = CurrentSession(active, session_id=None, model_id=model_id, watches=screen.attended)
    turns = Turns(screen, active, session, transports)
    shell = completer.shell = Shell(screen, active, session, turns, transports, COMMANDS, come_back)
    try:
        await shell.live(session_id)
    except BaseExceptionGroup as group:
        # A stdout that takes nothing more ends the shell's tasks; the caller knows the one failure, not the group.
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if not isinstance(failure, OSError):
            raise
        raise failure from None
    return 1 if turns.failed and not screen.attended else 0
