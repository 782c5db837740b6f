"""The table of the five at a glance: what each protocol gives by itself, and how much code each needs here."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Sequence

from compare.lines.steps.read import steps
from compare.measuring.verdicts import listed
from protocols import TRANSPORTS
from sequence_diagrams.counting import ROOT, code_lines, needed
from sequence_diagrams.script import FILES
from sequence_diagrams.wire_page import capture_turn

# What each protocol gives without any code of this project, in the order of the table of transports.
_BY_ITSELF = {
    "tokens as they come": ("no", "yes", "yes", "yes", "yes"),
    "both directions at once": ("no", "no", "no", "yes", "yes (`Chat`)"),
    "borders between events": ("one body", "LF, by agreement", "blank line", "frames", "length prefix"),
    "end told from a cut": ("`Content-Length`", "last chunk", "last chunk", "close frame", "status in trailers"),
    "failure after the first byte": ("–", "no word for it", "no word for it", "close code", "status in trailers"),
    "heartbeat": ("no", "no", "comment", "ping, pong", "PING"),
    "coming back after a cut": ("no", "no", "`Last-Event-ID`", "no", "no"),
    "stopping the other side": ("no", "no", "no", "by a message", "cancels the call"),
    "contract that tools check": ("OpenAPI", "no", "no", "no", "`.proto`"),
    "in a browser": ("`fetch`", "`fetch`, streamed", "`EventSource`", "`WebSocket`", "gRPC-Web, Connect"),
    "bytes without base64": ("`Accept: image/*`", "no", "no", "binary frame", "`bytes`"),
}
_CONCEPTS = {
    "rest": "request, status, idempotency key",
    "ndjson": "+ chunked body, line, cursor",
    "sse": "+ event, id, retry, `Last-Event-ID`",
    "websocket": "handshake, frame, ping, close code, correlation of answers",
    "grpc": "`.proto`, generated code, HTTP/2 stream, metadata, trailers, status",
}
_TITLES = {word: transport.title for word, transport in TRANSPORTS.items()}
_NOT_LIBRARIES = {*sys.stdlib_module_names, "shared", "protocols", "msgspec"}
_LIBRARIES = {
    "grpc": "grpcio",
    "grpc_health": "grpcio",
    "grpc_reflection": "grpcio",
    "starlette": "FastAPI",
    "fastapi": "FastAPI",
    "sse_starlette": "sse-starlette",
}
# The HTTP leaves use these through ``shared``.
_HTTP_LIBRARIES = {"FastAPI", "uvicorn", "httpx"}


def glance() -> str:
    """The table, as Markdown."""
    words = list(TRANSPORTS)
    took = {
        **_line_rows(words),
        "libraries": [", ".join(_libraries(word)) for word in words],
        "round trips to the first event, cold": [str(1 + _round_trips(word)) for word in words],
        "bytes around a token": [_bytes_around_token(word) for word in words],
        "concepts": [_CONCEPTS[word] for word in words],
    }
    lines = ["| | " + " | ".join(_TITLES.values()) + " |", "|---|" + "---|" * len(words)]
    for title, rows in (("by itself", _BY_ITSELF), ("what it took here", took)):
        lines.append(f"| **{title}** |" + " |" * len(words))
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def _line_rows(words: Sequence[str]) -> dict[str, list[str]]:
    """Lines of code: a row for each group of transports that share code."""
    found = {word: needed(word) for word in words}
    rows = {
        "lines: server.py": [str(found[word].server) for word in words],
        "lines: client.py": [str(found[word].client) for word in words],
        "lines: beside them, for it alone": [str(found[word].alone or "–") for word in words],
    }
    groups = {
        tuple(word for word in words if word in (mine, *others)) for mine in words for others in found[mine].shared
    }
    for group in sorted(groups, key=lambda group: words.index(group[0])):
        lines = found[group[0]].shared[group[1:]]
        name = f"lines: shared by {listed([_TITLES[word] for word in group])}"
        rows[name] = [str(lines) if word in group else "–" for word in words]
    standalone = {word: f"protocols/{TRANSPORTS[word].folder}/standalone.py" for word in words}
    rows["lines: all in one file"] = [f"[{code_lines(ROOT / path)}]({path})" for path in standalone.values()]
    return rows


def _libraries(word: str) -> list[str]:
    """The libraries that a leaf's server and client import, and those that the HTTP leaves get from ``shared``."""
    found: set[str] = set()
    for name in ("server.py", "client.py"):
        tree = ast.parse((ROOT / "protocols" / TRANSPORTS[word].folder / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    tops = {"protobuf" if name.startswith("google.protobuf") else name.partition(".")[0] for name in found}
    names = {_LIBRARIES.get(top, top) for top in tops - _NOT_LIBRARIES}
    return sorted(names if word == "grpc" else names | _HTTP_LIBRARIES, key=str.lower)


def _round_trips(word: str) -> int:
    """How often a new client sends something and waits before the first event; counted in the recorded diagram."""
    source = (ROOT / "sequence_diagrams" / f"{FILES[word]}_resume.mmd").read_text(encoding="utf-8")
    return len(re.findall(r"^ +C->>S:", source.partition("commit turn_started")[0], re.MULTILINE))


def _bytes_around_token(word: str) -> str:
    """The median size of a chunk without its text."""
    if not TRANSPORTS[word].tokens:
        return "–"
    relay = asyncio.run(capture_turn(word, 8))
    sizes = []
    for step in steps(relay.captured):
        if step.name == "chunk":
            event = step.payload
            text = event["chunk"]["text"] if "chunk" in event else event["text"]
            sizes.append(step.size - len(text.encode()))
    return str(sorted(sizes)[len(sizes) // 2])
