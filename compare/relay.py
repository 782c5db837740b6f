"""``python -m compare relay``: a relay by hand, between the clients and a server, that breaks the line as its options say."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, get_args

from compare.lines.capture import Direction
from compare.lines.faults import NETWORKS, Faults
from compare.lines.relay import Relay
from protocols import RELAY_OFFSET, TRANSPORTS
from shared.config import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Relay until Ctrl-C; a line is printed for each connection that ends."""
    parser = argument_parser()
    args = vars(parser.parse_args(argv))
    listen, target, network, every = args.pop("listen"), args.pop("to"), args.pop("network"), args.pop("all")
    given = {name: value for name, value in args.items() if value is not None}
    faults = replace(NETWORKS[network] if network else Faults(), **given)
    if every == bool(listen or target) or bool(listen) != bool(target):
        parser.error("give --listen and --to, or --all")
    if every:
        relays = [(target, "127.0.0.1", port + RELAY_OFFSET) for target, port in _configured_servers()]
    else:
        host, _, port_text = listen.rpartition(":")
        relays = [(target, host or "127.0.0.1", int(port_text))]
    if faults.cut_after_event is not None and any(relays_tls(target) for target, _, _ in relays):
        parser.error("--cut-after-event: TLS hides the events from the relay; use --cut-after-bytes")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run_relays(faults, relays))
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The command's arguments: where to listen, and an option for every field of ``Faults``."""
    parser = argparse.ArgumentParser(prog="python -m compare relay", description=__doc__)
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="where clients connect; port 0 takes a free one")
    parser.add_argument(
        "--to", metavar="HOST:PORT", help="the server; https:// before it says that the line is encrypted"
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


def _configured_servers() -> list[tuple[str, int]]:
    """The addresses on which ``serve all`` listens, and their ports."""
    tls = Settings().tls_cert is not None
    found = []
    for transport in TRANSPORTS.values():
        port = transport.port()
        found.append((f"{transport.scheme_prefix(tls=tls)}127.0.0.1:{port}", port))
        page_port = transport.page_port(port)
        if page_port is not None:
            found.append((f"http{'s' * tls}://127.0.0.1:{page_port}", page_port))
    return found


def relays_tls(target: str) -> bool:
    """Whether the address of the server says that its line is encrypted."""
    return target.partition("://")[0] in ("https", "wss", "grpcs")


async def _run_relays(faults: Faults, relays: Sequence[tuple[str, str, int]]) -> None:
    async with asyncio.TaskGroup() as group:
        for target, host, port in relays:
            group.create_task(_run_relay(target, faults, host, port))


async def _run_relay(target: str, faults: Faults, host: str, port: int) -> None:
    async with Relay(target, faults, host=host, port=port) as relay:
        scheme, colon, _ = target.rpartition("://")
        print(f"{scheme}{colon}{relay.address} -> {target}; Ctrl-C ends it", flush=True)
        while True:
            connection = await relay.finished.get()
            events = "encrypted" if relays_tls(target) else f"{connection.events:,} events"
            print(
                f"connection {connection.number} {connection.state}: up {connection.up_bytes:,} B,"
                f" down {connection.down_bytes:,} B, {events}",
                flush=True,
            )
