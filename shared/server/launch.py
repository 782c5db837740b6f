"""Starting and stopping a server: arguments, the banner, one listening socket, signals, the drain. The same for all five."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import shutil
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shared.chat.service import open_service
from shared.config import Settings, settings_help, settings_problems
from shared.logger import Trace, open_logger
from shared.server.access import access_policy
from shared.server.context import Neighbour, ServerContext
from shared.server.freed_memory import give_back_freed_memory
from shared.server.log_sink import stderr_never_blocks
from shared.server.stopping import Stopping, stopping_on_signals
from shared.server.tls import certificate
from shared.store.open import without_password
from shared.transports import Transport, ports_of

# With 50,000, the WebSocket server kept 27 MiB more after a flood of frames of one byte.
_GC_THRESHOLD = (20_000, 20, 20)


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket, or a leaf's own object for it, and the numbers of the port and of the port for pages.

    ``no_pages``: why there is no port for pages, where the server could have one.
    """

    listener: Any
    port: int
    page_port: int | None = None
    no_pages: str | None = None


# Binds the port.
Listening = Callable[[str, int, Settings], AbstractAsyncContextManager[Bound]]
Serve = Callable[[ServerContext, Any, Stopping], Coroutine[None, None, None]]


@asynccontextmanager
async def socket_listening(host: str, port: int, settings: Settings) -> AsyncIterator[Bound]:
    """A plain listening socket, for every server that takes one."""
    with contextlib.closing(listen(host, port, settings.stall_timeout_s)) as listener:
        yield Bound(listener, listener.getsockname()[1])


def parse(transports: Mapping[str, Transport], word: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments that every server takes."""
    parser = argparse.ArgumentParser(
        prog=f"{word} server",
        description=f"The chat and the image endpoint over {transports[word].title}.",
        epilog=settings_help(_ports(transports)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help=f"port to listen on (default: {transports[word].port_setting}); 0: any free one"
    )
    parser.add_argument("--http2", action="store_true", help="speak HTTP/2 too, as with HTTP2=on (docs/http2.md)")
    parser.add_argument("--trace", action="store_true", help="log every event")
    parser.add_argument("--trace-text", action="store_true", help="log prompts and answers too")
    return parser.parse_args(argv)


def _ports(transports: Mapping[str, Transport]) -> dict[str, tuple[int | str, str]]:
    """The settings of the ports, each with its default and its description."""
    ports: dict[str, tuple[int | str, str]] = {}
    for row in transports.values():
        ports[row.port_setting] = row.default_port, f"port of the {row.title} server"
        if row.page_word is not None:
            ports[row.page_port_setting] = (
                f"{row.port_setting} + 1",
                f"port of the {row.title} server for pages, or off",
            )
    return ports


def main(
    transports: Mapping[str, Transport],
    word: str,
    framework: str,
    serve: Serve,
    argv: Sequence[str] | None = None,
    *,
    listening: Listening = socket_listening,
) -> int:
    """Run a leaf's server until a signal. Returns the exit status, 2 when it could not start.

    The port is bound before the banner is printed, so that a client that reads the banner can connect.
    """
    args = parse(transports, word, argv)
    with stderr_never_blocks():
        return _main(transports, word, framework, serve, args, listening)


def _main(
    transports: Mapping[str, Transport],
    word: str,
    framework: str,
    serve: Serve,
    args: argparse.Namespace,
    listening: Listening,
) -> int:
    try:
        settings = Settings()
        if args.http2:
            settings = settings.model_copy(update={"http2": True})
        port = args.port if args.port is not None else transports[word].port()
        if not 0 <= port <= 65535:
            raise ValueError(f"a port is 0 to 65535, not {port}")
        trace = Trace(events=args.trace or args.trace_text, text=args.trace_text)
        with event_loop() as runner:
            opening = open_context(
                transports, word, framework, settings, host=args.host, port=port, trace=trace, listening=listening
            )
            runner.run(_run(opening, serve))
    except ValidationError as error:
        problems = settings_problems(error)
        return refuse(word, problems)
    except (ValueError, OSError) as error:
        return refuse(word, str(error))
    return 0


def settle() -> None:
    """Exclude the objects that are loaded now from garbage collection: searching them cost a tenth of a busy server's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


def event_loop() -> asyncio.Runner:
    """uvloop's runner where uvloop is installed: it lowers gRPC's CPU time by a quarter, and that of the others by more."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def refuse(word: str, why: str) -> int:
    """Write why a server cannot start, and return the exit status."""
    sys.stderr.write(f"{word} server cannot start: {why}\n")
    return 2


async def _run(opening: AbstractAsyncContextManager[tuple[ServerContext, Any]], serve: Serve) -> None:
    async with opening as (context, listener):
        settle()
        with stopping_on_signals(context.settings.drain_s) as stopping:
            _banner(context)
            giving_back = asyncio.create_task(give_back_freed_memory())
            try:
                await serve(context, listener, stopping)
            finally:
                giving_back.cancel()
            context.service.logger.info("stopped")


@asynccontextmanager
async def open_context(
    transports: Mapping[str, Transport],
    word: str,
    framework: str,
    settings: Settings,
    *,
    host: str,
    port: int,
    trace: Trace | None = None,
    listening: Listening = socket_listening,
) -> AsyncIterator[tuple[ServerContext, Any]]:
    """A service, its access policy and what listens. Raises ValueError or OSError with what to do instead."""
    access_policy(settings, host, ())
    found = certificate(settings)
    if settings.http2 and importlib.util.find_spec("zttp") is None:
        raise ValueError('HTTP2 is on, and zttp is not installed: pip install -e ".[http2]"')
    async with listening(host, port, settings) as bound:
        ports = ports_of(transports)
        neighbours = _neighbours(transports, word, bound, ports)
        configured = {port for word, port in ports.items() if transports[word].scheme == "http"}
        access = access_policy(settings, host, {bound.port, *configured}, "http" if found is None else "https")
        logger = open_logger(word)
        async with open_service(settings, logger=logger, trace=trace, framework=framework) as service:
            context = ServerContext(
                transports[word], host, bound.port, neighbours, settings, service, access, found, bound.no_pages
            )
            yield context, bound.listener


def _neighbours(
    transports: Mapping[str, Transport], word: str, bound: Bound, ports: Mapping[str, int]
) -> dict[str, Neighbour]:
    """Where the servers of this machine listen: the ports that are set, and for this server those that are bound."""
    found = {}
    for row in transports.values():
        here = row.word == word
        port = bound.port if here else ports[row.word]
        found[row.word] = Neighbour(row, port, for_pages=row.scheme == "http")
        page_port = bound.page_port if here else row.page_port(port)
        if row.page_word is not None and page_port is not None:
            found[row.page_word] = Neighbour(row, page_port, for_pages=True)
    return found


def listen(host: str, port: int, stall_timeout_s: float) -> socket.socket:
    """A listening TCP socket; on Linux the kernel cuts a peer that reads nothing for ``stall_timeout_s`` (RFC 5482)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_timeout_s * 1000))
        sock.bind((host.strip("[]"), port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from error
    sock.setblocking(False)
    return sock


def _banner(context: ServerContext) -> None:
    about = context.service.about()
    warnings = [] if context.certificate is None else context.certificate.warnings()
    origins = {"origins": "any (ALLOWED_ORIGINS=*)"} if context.access.origins is None else {}
    for_pages = context.page_url or context.no_pages
    pages = {"for_pages": for_pages} if for_pages else {}
    if context.settings.http2:
        pages["http"] = (
            "2 and 1.1" if context.http2 else "1.1 alone: a browser's WebSocket does not open over HTTP/2 here"
        )
    store = without_password(context.settings.store_url)
    if not sys.stderr.isatty():
        context.service.logger.info(
            "listening",
            address=context.url,
            **about,
            store=store,
            committed=context.service.committed,
            **origins,
            **pages,
        )
        for warning in warnings:
            context.service.logger.warning("certificate", why=warning)
        return
    key = "required (API_SECRET_KEY)" if context.access.key else "none (loopback only)"
    lines = [
        ("address", context.url),
        ("chat model", f"{about['model']} ({about['provider']})"),
        ("image model", f"{about['image_model']} ({about['image_provider']})"),
        ("store", store),
        ("key", key),
        *origins.items(),
        *((name.replace("_", " "), value) for name, value in pages.items()),
    ]
    if about.get("hint"):
        lines.append(("note", about["hint"]))
    lines += [("warning", warning) for warning in warnings]
    if context.transport.scheme == "http":
        lines.append(("in a browser", f"{context.url}/ (chat: /demo, race: /race, API: /docs)"))
    lines.append(("compare", "python -m compare race, run, guide, numbers"))
    tls = " --tls" if context.certificate else ""
    lines.append(("talk to it", f"python -m protocols chat {context.transport.word} --port {context.port}{tls}"))
    lines.append(("a proxy", "python -m compare probe ADDRESS: what it does to the tokens"))
    body = "\n".join(_folded(name, str(value)) for name, value in lines)
    sys.stderr.write(f"\n  {context.transport.title} server, Ctrl-C stops it\n{body}\n\n")


def _folded(name: str, value: str) -> str:
    """A line of the start text, continued under its value where the terminal is too narrow; an address or a path stays whole."""
    return textwrap.fill(
        value,
        width=max(40, shutil.get_terminal_size().columns),
        initial_indent=f"  {name:<12} ",
        subsequent_indent=" " * 15,
        break_long_words=False,
        break_on_hyphens=False,
    )
