"""``python -m compare page``: the race page with the five servers and the relays behind its buttons, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import webbrowser
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from compare.lines.faults import Faults
from compare.lines.relay import Relay
from protocols import TRANSPORTS
from protocols.processes import Server, serving_all
from shared.config import settings_problems
from shared.server.context import Neighbour
from shared.signals import run_until_signal
from shared.transports import ports_of
from shared.usage import reason, usage_of

# What the relay behind each button of the page does. shared/web/race.js says it in words.
FAULTS: dict[str, Faults] = {
    "phone": Faults(delay_s=0.1, bytes_per_s=60_000, late_share=0.01, late_s=0.3),
    "proxy": Faults(buffer_bytes=8_192, buffer_s=0.8),
    "stalls": Faults(late_share=0.025, late_s=1.0),
}
# A proxy that buffers responses passes on the frames of an upgraded connection at once.
_UNBUFFERED = {"websocket"}
OPENED = "sse"


def main(argv: Sequence[str] | None = None) -> int:
    """Start everything, print the page's address, and run until a signal; 1 when a server could not start."""
    parser = argparse.ArgumentParser(prog="python -m compare page", description=usage_of(__doc__))
    parser.add_argument("--port-base", type=int, help="five ports from this one on (default: the settings' ports)")
    parser.add_argument("--no-open", action="store_true", help="do not open the page in a browser")
    args = parser.parse_args(argv)
    try:
        ports = ports_of(TRANSPORTS)
        if args.port_base is not None:
            ports = {word: args.port_base + number for number, word in enumerate(TRANSPORTS)}
        return asyncio.run(run_until_signal(_run(ports, opens=not args.no_open), "the servers have stopped"))
    except ValidationError as error:
        problem = settings_problems(error)
    except (RuntimeError, OSError) as error:
        problem = reason(error)
    sys.stderr.write(f"the race page cannot start: {problem}\n")
    return 1


async def _run(ports: Mapping[str, int], *, opens: bool) -> int:
    env = {TRANSPORTS[word].port_setting: str(port) for word, port in ports.items()}
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(serving_all(tuple(ports), env=env, ports=ports, apart=True))
        for word, server in servers.items():
            await _relays(stack, word, server)
        address = f"http://{servers[OPENED].address}/race"
        print(f"\n  the race page   {address}\n  Ctrl-C stops the five servers and their relays\n", flush=True)
        if opens and sys.stdout.isatty():
            await asyncio.to_thread(webbrowser.open, address)
        ended = [asyncio.create_task(server.process.wait()) for server in servers.values()]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        dead = [word for word, task in zip(servers, ended, strict=True) if task.done()]
        for task in ended:
            task.cancel()
        sys.stderr.write(f"the {TRANSPORTS[dead[0]].title} server ended by itself\n")
    return 1


async def _relays(stack: contextlib.AsyncExitStack, word: str, server: Server) -> None:
    """The relays before one server that the page can reach, each with the faults of its name."""
    transport = TRANSPORTS[word]
    target = server.page_url or (server.address if transport.scheme == "http" else None)
    if target is None:
        return
    there = Neighbour(transport, int(target.rpartition(":")[2]), for_pages=True)
    for name, port in there.relay_ports.items():
        buffers = name == "proxy" and word in _UNBUFFERED
        await stack.enter_async_context(Relay(target, Faults() if buffers else FAULTS[name], port=port))


if __name__ == "__main__":
    raise SystemExit(main())
