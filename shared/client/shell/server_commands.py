"""The commands about the server and the connection to it: numbers, health, pages, connect and disconnect."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import webbrowser

from shared.client import text
from shared.client.shell import client_stats
from shared.client.shell.session_commands import leave_running_turn
from shared.client.shell.shell import Shell
from shared.client.shell.tables import table
from shared.session import short

_PINGS = 5
_HOLDS_NO_CONNECTION = "{word} holds no connection: every request opens one, or uses one that is still open"


async def stats(shell: Shell, argument: str) -> None:
    stats_by_word = list(shell.active.stats_by_word.values()) or [shell.active.stats]
    shell.say(
        table(
            ((name, *values) for name, values in client_stats.rows(stats_by_word)),
            header=("this client", *(each.word for each in stats_by_word)),
        )
    )
    here = "none"
    if shell.session.session_id is not None:
        here = short(shell.session.session_id)
        async with shell.active.asking() as client:
            session = await client.get_session(shell.session.session_id)
        here += f", {text.plural(session.message_count, 'message')}"
    shell.say(f"current session: {here}")


async def server(shell: Shell, argument: str) -> None:
    async with shell.active.asking() as client:
        stats = await client.stats()
    shell.say(
        table(
            (
                ("server", f"{shell.active.client.address} · {stats.framework}"),
                ("model", f"{stats.model} ({stats.provider})"),
                ("up for", text.duration(stats.uptime_s * 1000)),
                (
                    "requests",
                    f"{stats.requests_total} ({stats.requests_succeeded} done, {stats.requests_failed} failed)",
                ),
                ("average response", text.duration(stats.average_response_ms)),
                ("sessions", f"{stats.sessions_active} active, {stats.sessions_created} created"),
                (
                    "open now",
                    f"{text.plural(stats.streams_active, 'stream')}, {text.plural(stats.connections_active, 'connection')}",
                ),
            )
        )
    )


async def health(shell: Shell, argument: str) -> None:
    async with shell.active.asking() as client:
        answer = await client.health()
    shell.say(table((str(name), str(value)) for name, value in answer.items()))


async def ping(shell: Shell, argument: str) -> None:
    async with shell.active.asking() as client:
        trips_ms = sorted([await client.ping() for _ in range(_PINGS)])
    fastest, middle, slowest = (text.duration(trips_ms[i]) for i in (0, _PINGS // 2, -1))
    shell.say(
        f"{_PINGS} round trips over {shell.transport_title}: {fastest} at best, {middle} median, {slowest} at worst"
    )


async def docs(shell: Shell, argument: str) -> None:
    await _page(shell, "/docs")


async def demo(shell: Shell, argument: str) -> None:
    await _page(shell, "/demo")


async def _page(shell: Shell, path: str) -> None:
    address = shell.active.client.page(path)
    if address is None:
        async with shell.active.asking() as client:
            services = await client.services()
        _, tls, at = shell.active.client.address.rpartition("://")
        shell.say(
            f"{shell.transport_title} has no page for a browser; by reflection the server lists what can be called:"
        )
        shell.say("\n".join(f"  {text.line(service)}" for service in services))
        grpcurl = "-cacert ca.pem" if tls else "-plaintext"
        buf = (
            f"--cacert ca.pem --list-methods https://{at}"
            if tls
            else f"--http2-prior-knowledge --list-methods http://{at}"
        )
        shell.say(f"to look further: grpcurl {grpcurl} {at} describe chat.ChatService")
        shell.say(f"or: buf curl {buf}")
        return
    opened = _has_browser() and await asyncio.to_thread(webbrowser.open, address)
    shell.say(f"{'opened' if opened else 'open in a browser:'} {address}")


def _has_browser() -> bool:
    """Whether a browser would open a window of its own; one in this terminal would take it over."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


async def connect(shell: Shell, argument: str) -> None:
    if not shell.active.client.holds_connection:
        shell.note(_HOLDS_NO_CONNECTION.format(word=shell.active.word))
        return
    if not shell.active.parted and shell.active.state == "up":
        shell.note("connected already")
        return
    begun = time.perf_counter()
    if shell.active.parted:
        await shell.active.connect()
    async with shell.active.asking() as client:
        await client.ping()
    shell.session.watch()
    shell.note(f"connected to {shell.active.client.address} in {text.duration((time.perf_counter() - begun) * 1000)}")


async def disconnect(shell: Shell, argument: str) -> None:
    if not shell.active.client.holds_connection:
        shell.note(_HOLDS_NO_CONNECTION.format(word=shell.active.word))
        return
    if shell.active.parted:
        shell.note("not connected")
        return
    await leave_running_turn(shell)
    await shell.session.unwatch()
    await shell.active.disconnect()
    shell.note("disconnected; the next message or /connect connects again")
