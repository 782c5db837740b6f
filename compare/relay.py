"""``python -m compare relay``: a relay by hand, between the clients and a server, that breaks the line as its options say."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from pydantic import ValidationError

from compare.lines.capture import Direction
from compare.lines.faults import NETWORKS, Faults
from compare.lines.relay import Relay
from protocols import RELAY_OFFSET, TRANSPORTS
from shared.client.text import plural
from shared.config import Settings, settings_problems
from shared.usage import reason, usage_of

_MAX_PORT = 65535


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until Ctrl-C; a line is printed for each connection that ends. Returns the exit status, 2 for a port in use."""
    parser = argument_parser()
    args = vars(parser.parse_args(argv))
    listen, target, network, every = args.pop("listen"), args.pop("to"), args.pop("network"), args.pop("all")
    given = {name: value for name, value in args.items() if value is not None}
    faults = replace(NETWORKS[network] if network else Faults(), **given)
    if every == bool(listen or target) or bool(listen) != bool(target):
        parser.error("give --listen and --to, or --all")
    try:
        relays = [(target, *listen)] if listen else _configured_relays()
        if faults.cut_after_event is not None and any(relays_tls(target) for target, _, _ in relays):
            parser.error("--cut-after-event: TLS hides the events from the relay; use --cut-after-bytes")
        asyncio.run(_run_relays(faults, relays))
        return 0
    except ValidationError as error:
        problem = f"settings: {settings_problems(error)}"
    except ValueError as error:
        problem = f"settings: {error}"
    except OSError as error:
        problem = f"no relay can listen there: {reason(error)}"
    except KeyboardInterrupt:
        return 0
    sys.stderr.write(f"{problem}\n")
    return 2


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments: where to listen, and an option for every field of ``Faults``."""
    parser = argparse.ArgumentParser(prog="python -m compare relay", description=usage_of(__doc__))
    parser.add_argument(
        "--listen", type=_listen, metavar="[HOST:]PORT", help="where clients connect; port 0 takes a free one"
    )
    parser.add_argument(
        "--to", type=_to, metavar="HOST:PORT", help="the server; https:// before it says that the line is encrypted"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"a relay before each of the five servers, on the server's port + {RELAY_OFFSET}",
    )
    parser.add_argument(
        "--network", choices=NETWORKS, help="a network of known delay, bandwidth and share of late packets"
    )
    for fault in fields(Faults):
        option: dict[str, Any] = {"help": fault.metadata["help"], "dest": fault.name}
        if fault.type == "bool":
            option |= {"action": "store_const", "const": True}
        elif fault.type == "Direction":
            option |= {"choices": get_args(Direction)}
        else:
            option |= {"type": float if "float" in str(fault.type) else int, "metavar": "N"}
        parser.add_argument(fault.metadata.get("option", "--" + fault.name.replace("_", "-")), **option)
    return parser


def _listen(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    if not port.isdecimal() or int(port) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{given!r} is not [HOST:]PORT")
    return host or "127.0.0.1", int(port)


def _to(given: str) -> str:
    host, _, port = given.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{given!r} is not HOST:PORT")
    return given


def _configured_relays() -> list[tuple[str, str, int]]:
    """A relay before each address on which ``serve all`` listens: the address, and where the relay listens.

    Raises ValueError, of which pydantic's ValidationError is one, for a setting that is not valid.
    """
    tls = Settings().tls_cert is not None
    found = []
    for transport in TRANSPORTS.values():
        port = transport.port()
        found.append((f"{transport.scheme_prefix(tls=tls)}127.0.0.1:{port}", "127.0.0.1", port + RELAY_OFFSET))
        page_port = transport.page_port(port)
        if page_port is not None:
            found.append((f"http{'s' * tls}://127.0.0.1:{page_port}", "127.0.0.1", page_port + RELAY_OFFSET))
    return found


def relays_tls(target: str) -> bool:
    """Whether the address of the server says that its line is encrypted."""
    return target.partition("://")[0] in ("https", "wss", "grpcs")


async def _run_relays(faults: Faults, relays: Sequence[tuple[str, str, int]]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = [
            (target, await stack.enter_async_context(Relay(target, faults, host=host, port=port)))
            for target, host, port in relays
        ]
        for target, relay in running:
            scheme, colon, _ = target.rpartition("://")
            print(f"{scheme}{colon}{relay.address} -> {target}")
        print(f"Ctrl-C ends the {'relay' if len(running) == 1 else 'relays'}", flush=True)
        async with asyncio.TaskGroup() as group:
            for target, relay in running:
                group.create_task(_tell(target, relay))


async def _tell(target: str, relay: Relay) -> None:
    """Print a line for each connection that ends."""
    while True:
        connection = await relay.finished.get()
        events = "encrypted" if relays_tls(target) else plural(connection.events, "event")
        print(
            f"connection {connection.number} {connection.state}: up {connection.up_bytes:,} B,"
            f" down {connection.down_bytes:,} B, {events}",
            flush=True,
        )
