"""The commands: one table, read by the shell, by ``/help`` and by the completion."""

from __future__ import annotations

from rich.text import Text

from shared.client.shell import server_commands, session_commands, turn_commands
from shared.client.shell.shell import Command, Shell
from shared.client.shell.tables import table

_KEYS = (
    "Enter sends · Alt-Enter, or a backslash at the end, begins a new line · Tab completes · Ctrl-C stops an answer, "
    "at the empty prompt the second one leaves · Ctrl-D leaves. A line that begins with a space goes to the model, slash and all."
)


async def _help(shell: Shell, argument: str) -> None:
    name = argument.lstrip("/")
    command = shell.commands.get(name)
    if name and command is None:
        shell.fail(shell.no_such_command(name))
    elif command is not None:
        shell.say(Text.assemble((f"/{command.name} {command.arguments}".strip(), "bold cyan"), f"\n{command.brief}"))
        if command.more:
            shell.say(command.more)
    else:
        shell.say(table((f"/{each.name} {each.arguments}".strip(), each.brief) for each in shell.commands.values()))
        shell.say(Text(_KEYS, style="dim"))


async def _clear(shell: Shell, argument: str) -> None:
    shell.screen.clear()


async def _quit(shell: Shell, argument: str) -> None:
    shell.screen.leave()


_COMMANDS = (
    Command("help", "[COMMAND]", "every command, or more about one", _help, choices="commands"),
    Command(
        "new",
        "[MODEL]",
        "a new session",
        session_commands.new,
        "Created now, on the server. MODEL: one of the server's models; without it the session follows the server's default.",
        "models",
    ),
    Command(
        "sessions",
        "",
        "the sessions, newest first; ▸ marks this one",
        session_commands.sessions,
        "Also where an answer is running.",
    ),
    Command(
        "use",
        "N or ID",
        "go to a session",
        session_commands.use,
        "N: a number of /sessions. ID: an id or its beginning. An answer that is running there is shown from its start.",
        "sessions",
    ),
    Command("info", "", "this session", session_commands.info),
    Command("history", "", "the messages of this session", session_commands.history),
    Command(
        "reset", "[--yes]", "empty this session", session_commands.reset, "Asks first. The logs of its turns stay."
    ),
    Command("delete", "[--yes]", "delete this session and its turns", session_commands.delete, "Asks first."),
    Command("clear", "", "clear the screen (Ctrl-L)", _clear, "Only the screen: the session keeps its messages."),
    Command(
        "image",
        "PROMPT [--size WxH] [--out FILE]",
        "draw a picture and keep it in a file",
        turn_commands.image,
        "The size is 1024x1024 unless given; the file is named after the prompt. Previews are shown as they arrive, where "
        "the transport streams.",
    ),
    Command(
        "stop",
        "",
        "stop the answer (Ctrl-C); the partial answer is kept",
        turn_commands.stop,
        "Also an answer that someone else in this session asked for.",
    ),
    Command(
        "switch",
        "TRANSPORT",
        "the same session over another transport",
        turn_commands.switch,
        "Also in the middle of an answer: the answer goes on after its last event, and a line shows where.",
        "transports",
    ),
    Command(
        "cut",
        "",
        "drop the connection on purpose",
        turn_commands.cut,
        "As a broken cable would. In the middle of an answer you see the client come back: after which event the connection "
        "was lost, how long it took, and at the end that no event was lost or shown twice.",
    ),
    Command(
        "stats",
        "",
        "this client's numbers, per transport",
        server_commands.stats,
        "First token: from the request to the first chunk; on plain REST to the whole reply. Gap: from one chunk to the "
        "next, none across a cut or a switch. p50 and p99 are nearest-rank, over all turns of this run. Bytes: of bodies and "
        "frames, as far as the library shows them. Reconnects: streams that were lost; resumes: streams that went on.",
    ),
    Command("server", "", "the server's numbers", server_commands.server),
    Command("health", "", "whether the server takes new turns", server_commands.health),
    Command(
        "ping", "", "the round trip to the server", server_commands.ping, "On the held connection, where there is one."
    ),
    Command(
        "docs",
        "",
        "the server's API documentation, in the browser",
        server_commands.docs,
        "gRPC: by reflection instead.",
    ),
    Command("demo", "", "the server's demo page, in the browser", server_commands.demo, "gRPC: by reflection instead."),
    Command("connect", "", "connect, where a connection is held", server_commands.connect, "WebSocket and gRPC."),
    Command("disconnect", "", "close the held connection", server_commands.disconnect, "WebSocket and gRPC."),
    Command("quit", "", "leave (Ctrl-D)", _quit, "A running answer goes on at the server for its grace period."),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _COMMANDS}
