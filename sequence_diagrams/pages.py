"""The parts of the READMEs that are made and not written: ``python -m sequence_diagrams.pages`` puts them in place again.

They stand between ``<!-- made: NAME -->`` and ``<!-- end -->``: bytes of a recorded turn, a session with
the shell, numbers of lines, the table of the five.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from compare.lines.relay import Relay
from compare.lines.spans.read import units
from compare.lines.spans.span import Span, WireUnit
from compare.lines.steps.read import steps
from compare.measuring.picture_transfers import measure_transfers
from compare.migration import mistakes_table, transfers_table
from protocols import TRANSPORTS
from protocols.processes import serving
from sequence_diagrams.script import FILES, SETTINGS
from sequence_diagrams.session import session
from shared.client.protocol import collect

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m sequence_diagrams.pages"
_MADE = re.compile(r"(<!-- made: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_HOUSEKEEPING = ("SETTINGS", "WINDOWUPDATE", "PING")
_FRAMES = ("chunk size", "FIN", "length", "masked, length", "mask key")
_SETTLE_S = 0.3
_TRIES = 3
_WIDTH = 118
_HEX_BYTES = 8
_ARROWS = {"up": ">", "down": "<"}
_STDLIB = {*sys.stdlib_module_names, "shared", "protocols"}

# What each gives by itself, before any code of ours; the rows of the table at a glance.
BY_ITSELF = {
    "tokens as they come": ("no", "yes", "yes", "yes", "yes"),
    "both directions at once": ("no", "no", "no", "yes", "yes (`Chat`)"),
    "borders between events": ("one body", "LF, by agreement", "blank line", "frames", "length prefix"),
    "end told from a cut": ("`Content-Length`", "last chunk", "last chunk", "close frame", "status in trailers"),
    "failure after the first byte": ("–", "no word for it", "no word for it", "close code", "status in trailers"),
    "heartbeat": ("no", "no", "comment", "ping, pong", "PING"),
    "coming back after a cut": ("no", "no", "`Last-Event-ID`", "no", "no"),
    "stopping the other side": ("no", "no", "no", "by a message", "cancels the call"),
    "contract that tools check": ("OpenAPI", "no", "no", "no", "`.proto`"),
    "in a browser": ("`fetch`", "`fetch`, streamed", "`EventSource`", "`WebSocket`", "nothing"),
    "bytes without base64": ("`Accept: image/*`", "no", "no", "binary frame", "`bytes`"),
}
CONCEPTS = {
    "rest": "request, status, idempotency key",
    "ndjson": "+ chunked body, line, cursor",
    "sse": "+ event, id, retry, `Last-Event-ID`",
    "websocket": "handshake, frame, ping, close code, correlation of answers",
    "grpc": "`.proto`, generated code, HTTP/2 stream, metadata, trailers, status",
}


# -- one leaf ----------------------------------------------------------------------------------------------------------------


async def _captured(word: str, tokens: int) -> Relay:
    """One short turn through a relay, without a session."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**SETTINGS, "STORE_URL": f"sqlite:///{folder}/chat.db"}
        async with serving(word, env=env) as server, Relay(server.address, capture=True) as relay:
            async with TRANSPORTS[word].client(relay.address) as client:
                await collect(client.chat(f"/tokens {tokens} hello"))
                await asyncio.sleep(_SETTLE_S)
            await asyncio.sleep(_SETTLE_S)
        return relay


def wire(word: str) -> str:
    """The bytes of one short turn, with what they are."""
    for left in reversed(range(_TRIES)):
        relay = asyncio.run(_captured(word, 3))
        found = units(relay.captured)
        # A client that has its terminal event need not wait for what ends the body.
        if not left or word not in ("ndjson", "sse") or any(unit.title == "last chunk" for unit in found):
            break
    lines = ["```text"]
    for unit in found:
        if not any(name in unit.title for name in _HOUSEKEEPING):
            lines += _unit(unit, readable=word != "grpc")
    sums = []
    for way, counted in (("up", relay.up_bytes), ("down", relay.down_bytes)):
        mine = [unit for unit in found if unit.direction == way]
        kinds = " · ".join(f"{kind} {sum(unit.size(kind) for unit in mine)}" for kind in ("text", "event", "framing"))
        sums.append(f"{_ARROWS[way]} {counted} bytes in all: {kinds}")
    return "\n".join([*lines, *sums, "```", ""])


def _unit(unit: WireUnit, *, readable: bool) -> list[str]:
    lines = [f"{_ARROWS[unit.direction]} {unit.title.replace('  ', ' ')}, {unit.size()} bytes"]
    payload, mask = b"", b""
    for span in unit.spans:
        if span.meaning.startswith("head:"):
            head = span.data.decode().strip().replace("\r", "")
            lines += [f"      {line}" for line in head.split("\n")[1:]]
        elif span.meaning.startswith("CRLF ends"):
            continue
        elif not readable or span.meaning.startswith(_FRAMES):
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
    words = span.meaning
    number = "tag and" in span.meaning
    if (
        span.kind != "framing"
        and not number
        and len(span.data) > 4
        and span.data.isascii()
        and span.data.decode().isprintable()
    ):
        words += f"  {span.data.decode()}"
    line = f"      {shown:<26} {words}"
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2] + " …"


def size(word: str) -> str:
    """How much there is to read."""
    folder = TRANSPORTS[word].folder
    parts = [f"[{name}]({name}) {_lines(folder, name)}" for name in ("server.py", "client.py", "standalone.py")]
    return f"Lines: {' · '.join(parts)} (the last is the whole protocol in one file, to take home).\n"


def _lines(folder: str, name: str) -> int:
    return len((ROOT / "protocols" / folder / name).read_text(encoding="utf-8").splitlines())


# -- the table of the five ----------------------------------------------------------------------------------------------------


def glance() -> str:
    """What each gives by itself, and what it took here."""
    words = list(TRANSPORTS)
    rows: dict[str, Sequence[str]] = {**BY_ITSELF}
    took: dict[str, Callable[[str], str]] = {
        "lines: server.py": lambda word: str(_lines(TRANSPORTS[word].folder, "server.py")),
        "lines: client.py": lambda word: str(_lines(TRANSPORTS[word].folder, "client.py")),
        "lines beside them": lambda word: str(_beside(word) or "–"),
        "lines: all in one file": lambda word: (
            f"[{_lines(TRANSPORTS[word].folder, 'standalone.py')}](protocols/{TRANSPORTS[word].folder}/standalone.py)"
        ),
        "libraries": lambda word: ", ".join(_libraries(word)),
        "round trips to the first event, cold": lambda word: str(1 + _requests(word)),
        "bytes around a token": lambda word: _around(word),
        "concepts": lambda word: CONCEPTS[word],
    }
    head = "| | " + " | ".join(TRANSPORTS[word].title.replace("Streamable HTTP (NDJSON)", "NDJSON") for word in words)
    lines = [f"{head} |", "|---|" + "---|" * len(words), "| **by itself** |" + " |" * len(words)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    lines.append("| **what it took here** |" + " |" * len(words))
    lines += [f"| {name} | {' | '.join(cell(word) for word in words)} |" for name, cell in took.items()]
    return "\n".join(lines) + "\n"


def _beside(word: str) -> int:
    """Hand-written lines of a leaf beside its server and client: gRPC's contract and its translation."""
    folder = ROOT / "protocols" / TRANSPORTS[word].folder
    files = [path for path in folder.iterdir() if path.suffix in (".py", ".proto") and "_pb2" not in path.name]
    known = {"server.py", "client.py", "standalone.py"}
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files if path.name not in known)


def _libraries(word: str) -> list[str]:
    """What a leaf's server and client import themselves, and what the HTTP ones get from ``shared``."""
    found: set[str] = set()
    for name in ("server.py", "client.py"):
        tree = ast.parse((ROOT / "protocols" / TRANSPORTS[word].folder / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    tops = {"protobuf" if name.startswith("google.protobuf") else name.partition(".")[0] for name in found} - _STDLIB
    names = {"grpc": "grpcio", "grpc_health": "grpcio", "grpc_reflection": "grpcio", "starlette": "FastAPI"}
    names |= {"fastapi": "FastAPI", "sse_starlette": "sse-starlette"}
    tops = {names.get(top, top) for top in tops} - {"msgspec"}
    return sorted(tops if word == "grpc" else tops | {"FastAPI", "uvicorn", "httpx"}, key=str.lower)


def _requests(word: str) -> int:
    """How often a fresh client sends something and waits, before the first event: counted in its recorded diagram."""
    source = (ROOT / "sequence_diagrams" / f"{FILES[word]}_resume.mmd").read_text(encoding="utf-8")
    return len(re.findall(r"^ +C->>S:", source.partition("commit turn_started")[0], re.MULTILINE))


def _around(word: str) -> str:
    if not TRANSPORTS[word].tokens:
        return "–"
    relay = asyncio.run(_captured(word, 8))
    sizes = []
    for step in steps(relay.captured):
        if step.name == "chunk":
            event = step.payload
            text = event["chunk"]["text"] if "chunk" in event else event["text"]
            sizes.append(step.size - len(text.encode()))
    return str(sorted(sizes)[len(sizes) // 2])


def claims() -> str:
    """The article's claims on pictures of two sizes."""
    return "\n".join(
        transfers_table(asyncio.run(measure_transfers(size, rounds)), size, rounds)
        for size, rounds in (("256x256", 15), ("1024x1024", 15))
    )


def mistakes() -> str:
    """Who notices a client's mistakes."""
    return asyncio.run(mistakes_table())


_ALONE: dict[str, Callable[[], str]] = {"glance": glance, "claims": claims, "mistakes": mistakes}


# -- putting them in place ------------------------------------------------------------------------------------------------------


def made(page: Path, name: str) -> str:
    """The part ``name`` of a page, as it is now."""
    if name in _ALONE:
        return _ALONE[name]()
    word = next(transport.word for transport in TRANSPORTS.values() if transport.folder == page.parent.name)
    return {"wire": wire, "size": size, "session": session}[name](word)


def renew(page: Path, without: Sequence[str] = ()) -> str:
    """A page with its made parts as they are now, but for those named in ``without``."""

    def again(found: re.Match[str]) -> str:
        if found[2] in without:
            return found[0]
        return found[1] + made(page, found[2]) + found[4]

    return _MADE.sub(again, page.read_text(encoding="utf-8"))


def canonical(text: str) -> str:
    """A page without what is different each time: ids, times, ports, checksums, masks, and lengths that come of those."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "{id}", text)
    text = re.sub(r"\b(?:[0-9a-f]{2} )+(?:[0-9a-f]{2}\b|…)|\b[0-9a-f]{64}\b", "{hex}", text)
    text = re.sub(r"^( +)[0-9a-f]{2}(?= {2,}\S)", r"\1{hex}", text, flags=re.MULTILINE)
    text = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]+ GMT", "{}", text)
    text = re.sub(r"Sec-WebSocket-(Key|Accept): \S+", r"Sec-WebSocket-\1: {}", text)
    # Which events share a chunk is the moment's.
    text = re.sub(r"^(?:< chunk, \d+ bytes| +{hex} +chunk size.*)\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\d+(?:\.\d+)?| +", lambda it: " " if it[0].isspace() else "N", text)


ARTICLE = ROOT / "protocols" / "grpc" / "FROM_REST_TO_GRPC.md"
PAGES = [ROOT / "README.md", ARTICLE, *(ROOT / "protocols" / it.folder / "README.md" for it in TRANSPORTS.values())]


def main() -> int:
    """Renew all pages; with ``--check`` only say which differ."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page would differ")
    check = parser.parse_args().check
    different = 0
    for page in PAGES:
        text, now = page.read_text(encoding="utf-8"), renew(page)
        if check:
            different += canonical(text) != canonical(now)
        elif text != now:
            page.write_text(now, encoding="utf-8")
            print(page.relative_to(ROOT))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
