"""The port for pages beside the gRPC port: ``GRPC_WEB_PORT``, and the extra ``web`` that it needs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass

from protocols import TRANSPORTS
from protocols.grpc.handlers import Servicer
from shared.config import Settings, optional_port
from shared.server import launch
from shared.server.context import ServerContext
from shared.server.stopping import Stopping

MISSING = 'off, because connectrpc is not installed: pip install -e ".[web]"'
_ROW = TRANSPORTS["grpc"]


@dataclass(frozen=True, slots=True)
class PageListener:
    """``listener`` is the socket of the port for pages.

    ``off``: the reason why there is none, unless the setting says off.
    """

    listener: socket.socket | None
    off: str | None = None

    @property
    def port(self) -> int | None:
        """The number of the port; None where there is none."""
        return None if self.listener is None else int(self.listener.getsockname()[1])


@contextlib.contextmanager
def page_listening(host: str, port: int, settings: Settings) -> Iterator[PageListener]:
    """Bind the port for pages of a server on ``port``. Raises ValueError without the extra, OSError for a taken port."""
    number = _ROW.page_port(port)
    name = _ROW.page_port_setting
    if number is None:
        yield PageListener(None)
        return
    if importlib.util.find_spec("connectrpc") is None:
        if optional_port(name) is not None:
            raise ValueError(f'{name} is set, and connectrpc is not installed: pip install -e ".[web]", or {name}=off')
        yield PageListener(None, MISSING)
        return
    try:
        listener = launch.listen(host, number, settings.stall_timeout_s)
    except OSError as error:
        raise OSError(f"{error}, or another {name}") from error
    with contextlib.closing(listener):
        yield PageListener(listener)


@contextlib.asynccontextmanager
async def pages_running(
    context: ServerContext,
    listener: socket.socket | None,
    servicers: Collection[Servicer],
    without: Collection[str],
    stopping: Stopping,
) -> AsyncIterator[None]:
    """Answer pages in this block, without the RPCs named in ``without``. The gRPC port does not wait for it.

    The libraries of the port for pages take as long to import as the rest of the server. A page that connects meanwhile waits
    in the queue of the socket.
    """
    over = asyncio.Event()

    async def answer_pages(listener: socket.socket) -> None:
        await asyncio.to_thread(importlib.import_module, "protocols.grpc.web")
        if over.is_set():
            return
        # Imported here, because the extra ``web`` may not be installed.
        from protocols.grpc.web import page_app
        from shared.server.http.serving import running

        async with running(page_app(context, servicers, without), context, listener, stopping):
            await over.wait()

    async with asyncio.TaskGroup() as group:
        if listener is not None:
            group.create_task(answer_pages(listener))
        try:
            yield
        finally:
            over.set()
