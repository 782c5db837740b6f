"""``serve all``: the five servers as five processes side by side on one store, started, shown and ended together."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog
from pydantic import ValidationError

from protocols import TRANSPORTS
from protocols.processes import Server, catching_signals, run_together, serving_all
from shared.config import Settings, settings_problems
from shared.server.tasks import first_of


def serve_all(host: str = "127.0.0.1", port_base: int | None = None, arguments: Sequence[str] = ()) -> int:
    """Run the five until a signal ends them, or until one dies: exit status 0, 1; 2 when one could not start.

    ``port_base``: its five ports instead of the configured ones. ``arguments`` are every server's.
    """
    try:
        settings = Settings()
        ports = {word: row.port() for word, row in TRANSPORTS.items()}
    except ValidationError as error:
        problems = settings_problems(error)
        return _say(f"the servers cannot start: {problems}", 2)
    if port_base is not None:
        ports = {word: port_base + number for number, word in enumerate(TRANSPORTS)}
    try:
        return asyncio.run(_serve_all(settings, ports, ["--host", host, *arguments]))
    except RuntimeError as error:
        return _say(str(error), 2)


def _say(line: str, status: int = 0) -> int:
    sys.stderr.write(f"{line}\n")
    return status


async def _serve_all(settings: Settings, ports: Mapping[str, int], arguments: Sequence[str]) -> int:
    if settings.store_url == "sqlite://":
        _say("note: STORE_URL=sqlite:// is memory, so each of the five processes has a store of its own")
    # Each server allows the pages of the other four (ALLOWED_ORIGINS), so each is told all ports.
    env = {f"{word.upper()}_PORT": str(port) for word, port in ports.items()}
    up = asyncio.Event()

    def relay(word: str, line: bytes) -> None:
        # Until then only the words of a server that does not start matter, and those come by themselves.
        if up.is_set():
            _relay(word, line)

    with catching_signals() as signals:
        early = asyncio.create_task(signals.get())
        serving = serving_all(tuple(ports), env=env, ports=ports, arguments=arguments, relay=relay, apart=True)
        starting = asyncio.ensure_future(serving.__aenter__())
        await first_of(asyncio.shield(early), asyncio.shield(starting))
        if early.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        early.cancel()
        servers = await starting
        try:
            _table(servers, settings)
            up.set()
            ended = await run_together(servers, signals, settings.drain_s)
        finally:
            await serving.__aexit__(None, None, None)
    return _say(ended.why, 1) if ended.why else _say("all five have stopped")


def _table(servers: Mapping[str, Server], settings: Settings) -> None:
    """What is where, on a terminal; elsewhere the servers' own first lines, as JSON."""
    if not sys.stderr.isatty():
        for server in servers.values():
            sys.stderr.write(json.dumps(server.log[0]) + "\n")
        return
    about = next(iter(servers.values())).log[0]
    rows = [("transport", "address", "talk to it")]
    for word, server in servers.items():
        port = server.address.rpartition(":")[2]
        more = "" if port == str(TRANSPORTS[word].port()) else f" --port {port}"
        rows.append((word, str(server.log[0]["address"]), f"python -m protocols chat {word}{more}"))
    body = "\n".join(f"  {word:<11}{address:<25}{command}" for word, address, command in rows)
    models = f"{about['model']} ({about['provider']}), {about['image_model']} ({about['image_provider']})"
    _say(
        f"\n  five servers, one store, Ctrl-C stops them all\n\n{body}\n\n  models  {models}\n  store   {about['store']}\n"
    )


def _relay(word: str, line: bytes) -> None:
    """A server's log line: as it is, or readable where a terminal reads it."""
    out = sys.stderr
    if not out.isatty():
        out.write(line.decode(errors="replace"))
        return
    try:
        entry = json.loads(line)
        entry.pop("transport", None)
        stamp = datetime.fromisoformat(entry.pop("timestamp")).astimezone()
        render = structlog.dev.ConsoleRenderer(pad_event_to=18, colors=sys.platform != "win32")
        text = f"{stamp:%H:%M:%S} {word:<10}{render(None, '', entry)}"
    except (ValueError, KeyError):
        text = f"{word:<19}{line.decode(errors='replace').rstrip()}"
    out.write(text + "\n")
