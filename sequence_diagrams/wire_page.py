"""The bytes of one short turn, as a leaf's README shows them."""

from __future__ import annotations

import asyncio
import tempfile

from compare.lines.relay import Relay
from compare.lines.spans.read import units
from compare.lines.spans.span import BYTE_KINDS, Span, WireUnit
from protocols import TRANSPORTS
from protocols.processes import serving
from sequence_diagrams.script import SETTINGS
from shared.client.protocol import collect

# Frames of HTTP/2 that carry nothing of the turn.
_HOUSEKEEPING = ("SETTINGS", "WINDOWUPDATE", "PING")
# Spans that are shown as bytes; the bytes of the other spans are shown as text.
_FRAMING = ("chunk size", "FIN", "length", "masked, length", "mask key")
_SETTLE_S = 0.3
_TRIES = 3
_WIDTH = 118
_HEX_BYTES = 8
_ARROWS = {"up": ">", "down": "<"}


async def capture_turn(word: str, tokens: int) -> Relay:
    """Run one short turn without a session through a relay. Returns the relay with its capture."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**SETTINGS, "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving(word, env=env) as server, Relay(server.address, capture=True) as relay:
            async with TRANSPORTS[word].client(relay.address) as client:
                await collect(client.chat(f"/tokens {tokens} hello"))
                await asyncio.sleep(_SETTLE_S)
            await asyncio.sleep(_SETTLE_S)
        return relay


def wire(word: str) -> str:
    """The bytes of one short turn, with their meaning."""
    for tries_left in reversed(range(_TRIES)):
        relay = asyncio.run(capture_turn(word, 3))
        found = units(relay.captured)
        # A client that has its terminal event may close before the last chunk of the body, which the page has to show.
        if not tries_left or word not in ("ndjson", "sse") or any(unit.title == "last chunk" for unit in found):
            break
    lines = ["```text"]
    for unit in found:
        if not any(name in unit.title for name in _HOUSEKEEPING):
            lines += _unit(unit, readable=word != "grpc")
    for direction, counted in (("up", relay.up_bytes), ("down", relay.down_bytes)):
        here = [unit for unit in found if unit.direction == direction]
        sums = " · ".join(f"{kind} {sum(unit.size(kind) for unit in here)}" for kind in BYTE_KINDS)
        lines.append(f"{_ARROWS[direction]} {counted} bytes in all: {sums}")
    return "\n".join([*lines, "```", ""])


def _unit(unit: WireUnit, *, readable: bool) -> list[str]:
    lines = [f"{_ARROWS[unit.direction]} {unit.title.replace('  ', ' ')}, {unit.size()} bytes"]
    payload, mask = b"", b""
    for span in unit.spans:
        if span.meaning.startswith("head:"):
            head = span.data.decode().strip().replace("\r", "")
            lines += [f"      {line}" for line in head.split("\n")[1:]]
        elif span.meaning.startswith("CRLF ends"):
            continue
        elif not readable or span.meaning.startswith(_FRAMING):
            lines.append(_framing(span))
            mask = span.data if span.meaning == "mask key" else mask
        else:
            payload += bytes(byte ^ mask[i % 4] for i, byte in enumerate(span.data)) if mask else span.data
    if payload and len(payload) == 2:
        lines.append(f"      {int.from_bytes(payload, 'big')}")
    elif payload:
        text = payload.decode("utf-8", "replace").rstrip("\n")
        lines += [f"      {line}".rstrip() for line in text.split("\n")]
    return lines


def _framing(span: Span) -> str:
    shown = " ".join(f"{byte:02x}" for byte in span.data[:_HEX_BYTES]) + (" …" if len(span.data) > _HEX_BYTES else "")
    meaning = span.meaning
    is_text = len(span.data) > 4 and span.data.isascii() and span.data.decode().isprintable()
    if span.kind != "framing" and "tag and" not in meaning and is_text:
        meaning += f"  {span.data.decode()}"
    line = f"      {shown:<26} {meaning}"
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2] + " …"
