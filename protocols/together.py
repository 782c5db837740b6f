"""``serve all``: the five servers as five processes side by side on one store, started, shown and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

import structlog
from pydantic import ValidationError

from protocols import TRANSPORTS
from protocols.forks import CAN_FORK, Fork, forked, signals_unblocked
from protocols.processes import LONGEST_LINE_BYTES, Server, serving_all, without_tls
from shared.config import Settings, settings_problems, tls_environment
from shared.logger import visible_values
from shared.server.log_sink import stderr_never_blocks
from shared.signals import catching_signals
from shared.transports import ports_of
from shared.visible import visible

# A server that has not ended this long after its drain is killed.
_AFTER_DRAIN_S = 10.0


def serve_all(host: str = "127.0.0.1", port_base: int | None = None, arguments: Sequence[str] = ()) -> int:
    """Run the five until a signal ends them, or until one dies: exit status 0, 1; 2 when one could not start.

    ``port_base`` replaces the configured ports by five ports from this one on. Every server gets ``arguments``.
    """
    try:
        settings = Settings()
        ports = ports_of(TRANSPORTS)
    except ValidationError as error:
        return _end(f"the servers cannot start: {settings_problems(error)}", 2)
    if port_base is not None:
        ports = {word: port_base + number for number, word in enumerate(TRANSPORTS)}
    # Each server allows the pages of the other four (ALLOWED_ORIGINS), so each server needs all ports.
    env = {TRANSPORTS[word].port_setting: str(port) for word, port in ports.items()} | tls_environment(settings)
    arguments = ["--host", host, *arguments]
    with contextlib.ExitStack() as stack:
        try:
            forks = stack.enter_context(forked(ports, without_tls() | env, arguments)) if CAN_FORK else {}
            # This block starts a thread, and a process with threads must not fork.
            stack.enter_context(stderr_never_blocks())
            return asyncio.run(_serve_all(settings, ports, env, arguments, forks))
        except KeyboardInterrupt:
            return 0
        except RuntimeError as error:
            return _end(str(error), 2)


def _end(line: str, status: int) -> int:
    sys.stderr.write(f"{line}\n")
    return status


async def _serve_all(
    settings: Settings,
    ports: Mapping[str, int],
    env: Mapping[str, str],
    arguments: Sequence[str],
    forks: Mapping[str, Fork],
) -> int:
    if settings.store_url == "sqlite://":
        sys.stderr.write("note: STORE_URL=sqlite:// is memory, so each of the five processes has a store of its own\n")
    starts = {word: partial(fork.attached, LONGEST_LINE_BYTES) for word, fork in forks.items()}
    up = asyncio.Event()

    def on_line(word: str, line: bytes) -> None:
        # Before all servers are up nothing is shown. The words of a server that does not start are in the RuntimeError.
        if up.is_set():
            _show_line(word, line)

    with catching_signals() as signals:
        signals_unblocked()
        async with contextlib.AsyncExitStack() as stack:
            serving = serving_all(
                tuple(ports), env=env, ports=ports, arguments=arguments, on_line=on_line, apart=True, starts=starts
            )
            starting = asyncio.create_task(stack.enter_async_context(serving))
            asked_early = asyncio.create_task(signals.get())
            await asyncio.wait((starting, asked_early), return_when=asyncio.FIRST_COMPLETED)
            if asked_early.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return 0
            asked_early.cancel()
            servers = starting.result()
            _show_table(servers)
            up.set()
            problem = await _run_together(servers, signals, settings.drain_s)
    return _end(problem, 1) if problem else _end("all five have stopped", 0)


async def _run_together(servers: Mapping[str, Server], signals: asyncio.Queue[int], drain_s: float) -> str:
    """Wait until all servers have ended: signals are passed on, and one server's death ends the others.

    The result says which server ended by itself, and how; it is empty when a signal ended the servers.
    """
    problem = ""
    running = {asyncio.create_task(server.process.wait()): server for server in servers.values()}
    asking = asyncio.create_task(signals.get())
    stopping_s: float | None = None
    try:
        while running:
            done, _ = await asyncio.wait((asking, *running), timeout=stopping_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                for server in running.values():
                    server.kill()
            if asking in done:
                number = asking.result()
                asking = asyncio.create_task(signals.get())
                stopping_s = drain_s + _AFTER_DRAIN_S
                for server in running.values():
                    server.send(number)
            for task in done & running.keys():
                server = running.pop(task)
                if stopping_s is None:
                    stopping_s = drain_s + _AFTER_DRAIN_S
                    problem = f"the {server.word} server ended by itself: {_how_ended(server)}"
                    for other in running.values():
                        other.send(signal.SIGTERM)
    finally:
        asking.cancel()
    return problem


def _how_ended(server: Server) -> str:
    code = server.process.returncode
    status = f"exit status {code}"
    if code is not None and code < 0:
        status = f"killed by {signal.Signals(-code).name}"
    return f"{status} ({server.said[-1]})" if server.said else status


def _show_table(servers: Mapping[str, Server]) -> None:
    """The addresses and commands, on a terminal; elsewhere the servers' own first lines, as JSON."""
    if not sys.stderr.isatty():
        for server in servers.values():
            sys.stderr.write(json.dumps(server.log[0]) + "\n")
        return
    about = next(iter(servers.values())).log[0]
    rows = [("transport", "address", "talk to it")]
    for word, server in servers.items():
        port = server.address.rpartition(":")[2]
        option = "" if port == str(TRANSPORTS[word].port()) else f" --port {port}"
        tls = " --tls" if server.url.startswith(TRANSPORTS[word].scheme_prefix(tls=True)) else ""
        rows.append((TRANSPORTS[word].label, server.url, f"python -m protocols chat {word}{option}{tls}"))
    body = "\n".join(f"  {name:<11}{address:<26}{command}" for name, address, command in rows)
    models = f"{about['model']} ({about['provider']}), {about['image_model']} ({about['image_provider']})"
    page = next(server.url for word, server in servers.items() if TRANSPORTS[word].scheme == "http")
    more = [
        ("models", models),
        ("store", about["store"]),
        ("browser", f"{page}/ (the chat: /demo, the race: /race)"),
        ("compare", "python -m compare race, run, probe, guide, numbers"),
    ]
    told = "\n".join(f"  {name:<9} {value}" for name, value in more)
    sys.stderr.write(f"\n  five servers, one store, Ctrl-C stops them all\n\n{body}\n\n{told}\n\n")


def _show_line(word: str, line: bytes) -> None:
    """A server's log line: in columns and with visible values on a terminal, elsewhere as it is."""
    out = sys.stderr
    if not out.isatty():
        out.write(line.decode(errors="replace"))
        return
    try:
        entry = json.loads(line)
        entry.pop("transport", None)
        stamp = datetime.fromisoformat(entry.pop("timestamp")).astimezone()
        render = structlog.dev.ConsoleRenderer(pad_event_to=18, colors=sys.platform != "win32")
        text = f"{stamp:%H:%M:%S} {word:<10}{render(None, '', visible_values(entry))}"
    except (ValueError, KeyError):
        text = f"{word:<19}{visible(line.decode(errors='replace').rstrip())}"
    out.write(text + "\n")
