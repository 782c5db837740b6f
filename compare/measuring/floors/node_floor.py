"""The floors in Node (``node/server.js``), which send the bytes of the floors in Python: a ratio tells Python from the chat."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from compare.measuring.floors.floor_process import floor_process
from compare.measuring.floors.plan import NODE, STREAMING, Side
from compare.measuring.floors.servers.asgi import websocket_messages, written
from compare.measuring.floors.servers.script import AT, ScriptOptions, events, options
from protocols.grpc.convert import to_event_message

_FILES = ("server.js", "package.json", "package-lock.json")
_INSTALL_S = 240
# What server.js reads, and the setting that names the file with it.
_TLS = {"cert": "TLS_CERT", "key": "TLS_KEY"}
_JSON_TIME = b"%.3f" % AT
_PROTOBUF_TIME = struct.pack("<d", AT)


class NodeMissing(RuntimeError):
    """Node or its packages are not on this machine; the message says what to install."""


def node_folder() -> Path:
    """The folder in the user's cache that has the server and its packages; ``npm ci`` fills it once. Raises NodeMissing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeMissing("Node is not installed: apt install nodejs npm")
    source = files("compare.measuring.floors") / "node"
    texts = {name: (source / name).read_bytes() for name in _FILES}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genai-protocols"
    folder = cache / f"node-floors-{sha256(b''.join(texts.values())).hexdigest()[:12]}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        for name, text in texts.items():
            (made / name).write_bytes(text)
        command = [npm, "ci", "--no-audit", "--no-fund", "--fetch-retries", "0"]
        try:
            done = subprocess.run(command, cwd=made, timeout=_INSTALL_S, check=False, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise NodeMissing(f"npm ci did not end within {_INSTALL_S} s") from None
        if done.returncode:
            raise NodeMissing(f"npm ci failed: {(done.stderr or done.stdout).strip()[-300:]}")
        # Another process may have been first; its folder is the same.
        with contextlib.suppress(OSError):
            made.rename(folder)
    return folder


@asynccontextmanager
async def node_server(
    word: str, *arguments: str, certificate: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Side]:
    """A running floor in Node of a transport that streams, with the settings of TLS in ``certificate``.

    Raises NodeMissing, or RuntimeError when it does not start.
    """
    if word not in STREAMING:
        raise RuntimeError(f"there is no floor of {word} in Node")
    folder = await asyncio.to_thread(node_folder)
    _, script = options("node", list(arguments))
    given = msgspec.json.encode(_turn(word, script) | _texts(certificate))
    async with floor_process(("node", "server.js"), NODE, word, given=given, folder=folder) as side:
        yield replace(side, ca=certificate.get("TLS_CA", ""))


def _texts(certificate: Mapping[str, str]) -> dict[str, str]:
    """The certificate and its key as ``server.js`` reads them; nothing without TLS."""
    return {name: Path(certificate[setting]).read_text() for name, setting in _TLS.items() if certificate}


def _turn(word: str, script: ScriptOptions) -> dict[str, Any]:
    """The turn as ``server.js`` reads it: of each message its bytes, where its time stands (-1: nowhere), whether it is text."""
    messages: list[tuple[bytes, bool]] = []
    for event in events(script):
        if word == "grpc":
            messages.append((to_event_message(event).SerializeToString(), False))
        elif word == "websocket":
            messages += [(_bytes(one), "text" in one) for one in websocket_messages(event)]
        else:
            messages.append((written(word, event), True))
    time = _PROTOBUF_TIME if word == "grpc" else _JSON_TIME
    return {
        "wire": word,
        "protobuf": word == "grpc",
        "rate": script.rate,
        "gate": script.gate,
        "hold": script.hold,
        "messages": [
            {"data": base64.b64encode(data).decode(), "at": data.find(time), "text": text} for data, text in messages
        ],
    }


def _bytes(message: dict[str, Any]) -> bytes:
    return message["bytes"] if "bytes" in message else str(message["text"]).encode()
