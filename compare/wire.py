"""``python -m compare wire LANE``: the bytes of one short turn, as they passed the relay, each with its meaning.

Only captured bytes are shown. Every byte belongs to one span, and the sum of the spans is the number that the relay counted.
With ``--tls`` the bytes are encrypted: then the records of TLS are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console
from rich.text import Text

from compare.lines.records import NotTls, records
from compare.lines.relay import Relay
from compare.lines.spans.read import units
from compare.lines.spans.span import BYTE_KINDS, UnexpectedBytes, WireUnit, shorten
from compare.measuring.lanes import LANES, running_lanes
from compare.measuring.recording import TurnSpec, record_turn
from shared.usage import reason, usage_of

_STYLES = {"text": "bold green", "event": "", "framing": "cyan"}
_HEX_BYTES = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Print the bytes of one turn. Returns the exit status, 1 when the turn fails or its bytes cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m compare wire", description=usage_of(__doc__.partition("\n\n")[0]))
    parser.add_argument("transport", choices=LANES)
    parser.add_argument("--tokens", type=int, default=4, metavar="N", help="length of the reply (default: 4)")
    parser.add_argument(
        "--rate",
        type=float,
        default=20.0,
        metavar="N",
        help="tokens a second; with 0 several events may share a write (default: 20)",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt the line, and count the records of TLS")
    parser.add_argument("--message", default="Hi", help="the message that is sent")
    args = parser.parse_args(argv)
    if not 0 < args.tokens <= 200:
        parser.error("--tokens: from 1 to 200")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    try:
        turn = partial(capture, args.transport, tokens=args.tokens, rate=args.rate, message=args.message)
        relay = asyncio.run(turn(tls=args.tls))
        if args.tls:
            show_records(console, relay)
        else:
            show(console, units(relay.captured), relay)
    except (RuntimeError, OSError, UnexpectedBytes, NotTls) as error:
        sys.stderr.write(f"{reason(error)}\n")
        return 1
    return 0


async def capture(name: str, *, tokens: int, rate: float, message: str, tls: bool = False) -> Relay:
    """Run one short turn on a lane. Returns the relay with its capture."""
    async with running_lanes([name], rate=rate, tls=tls) as lanes:
        lane = lanes[name]
        async with Relay(lane.address, capture=True) as relay:
            through = replace(lane, address=lane.address.replace(lane.server.address, relay.address), relay=relay)
            async with through.client() as client:
                turn = await record_turn(through, client, TurnSpec(experiment="wire", message=message, tokens=tokens))
        if turn.error is not None:
            raise RuntimeError(f"the turn failed: {turn.error}")
        return relay


def show(console: Console, found: Sequence[WireUnit], relay: Relay) -> None:
    """Print every unit with its spans, then the sums. Raises UnexpectedBytes when a sum is not the relay's."""
    begun = found[0].at
    for unit in found:
        _show_unit(console, unit, unit.at - begun)
    console.print()
    for direction, counted, receiver in (("up", relay.up_bytes, "server"), ("down", relay.down_bytes, "client")):
        here = [unit for unit in found if unit.direction == direction]
        total = sum(unit.size() for unit in here)
        if total != counted:
            raise UnexpectedBytes(f"the spans are {total} bytes, the relay counted {counted}")
        sizes = {kind: sum(unit.size(kind) for unit in here) for kind in BYTE_KINDS}
        parts = ", ".join(f"{kind} {size} ({size / total:.0%})" for kind, size in sizes.items() if size)
        console.print(
            f"to the {receiver}: {total} B of TCP payload, as the relay counted: {parts}", markup=False, soft_wrap=True
        )


def show_records(console: Console, relay: Relay) -> None:
    """Print how many records of each type passed and their bytes. Raises NotTls when a sum is not the relay's."""
    found = records(relay.captured)
    for direction, counted, receiver in (("up", relay.up_bytes, "server"), ("down", relay.down_bytes, "client")):
        here = [record for record in found if record.direction == direction]
        total = sum(record.size for record in here)
        if total != counted:
            raise NotTls(f"the records are {total} bytes, the relay counted {counted}")
        sizes: dict[str, list[int]] = {}
        for record in here:
            sizes.setdefault(record.type, []).append(record.size)
        parts = ", ".join(f"{len(some)} of {kind} ({sum(some)} B)" for kind, some in sizes.items())
        console.print(
            f"to the {receiver}: {total} B of TCP payload, as the relay counted, in {len(here)} TLS records: {parts}",
            markup=False,
            soft_wrap=True,
        )


def _show_unit(console: Console, unit: WireUnit, ms: float) -> None:
    arrow = "→ server" if unit.direction == "up" else "← server"
    parts = ", ".join(f"{kind} {unit.size(kind)}" for kind in BYTE_KINDS if unit.size(kind))
    console.print()
    console.print(
        Text.assemble(
            (f"{ms:8.1f} ms  {arrow}  ", "dim"),
            (unit.title, "bold"),
            f"  {unit.size()} B: {parts}",
            ("" if not unit.connection else f"  (connection {unit.connection + 1})", "dim"),
        ),
        soft_wrap=True,
    )
    for span in unit.spans:
        shown = " ".join(f"{byte:02x}" for byte in span.data[:_HEX_BYTES])
        shown += " …" if len(span.data) > _HEX_BYTES else ""
        line = Text.assemble(
            f"  {len(span.data):>6} B  ",
            (f"{shown:<{_HEX_BYTES * 3 + 2}}", "dim"),
            (f"{span.kind:<8} ", _STYLES[span.kind]),
            (span.meaning, _STYLES[span.kind]),
        )
        if span.kind != "framing" or _readable(span.data):
            line.append(f"  {shorten(span.data)}", style="dim")
        console.print(line, soft_wrap=True)


def _readable(data: bytes) -> bool:
    return all(0x20 <= byte < 0x7F or byte in b"\r\n" for byte in data)
