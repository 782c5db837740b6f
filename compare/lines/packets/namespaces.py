"""Network namespaces that belong to this program: made, removed at the end, and removed by the next start after a crash.

Each pair has a random id in its names. The process that made a pair holds an abstract Unix socket of that id; the kernel frees
the socket when the process ends, however it ends. A pair whose socket is free is therefore left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "genai-line-"
_TUN = Path("/dev/net/tun")


class NoPacketLine(RuntimeError):
    """This machine refuses a namespace or a device; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The names of a pair of namespaces."""

    id: str

    @property
    def client(self) -> str:
        return f"{PREFIX}{self.id}-client"

    @property
    def server(self) -> str:
        return f"{PREFIX}{self.id}-server"

    def device(self, side: str) -> str:
        """The name of the device of a side, ``client`` or ``server``; Linux allows 15 characters."""
        return f"genai{self.id}{side[0]}"


def why_not() -> str | None:
    """Why there can be no real packets on this machine, as a sentence; None where nothing speaks against it."""
    if sys.platform != "linux":
        return "Real packets need Linux: network namespaces and TUN devices exist nowhere else."
    if os.geteuid() != 0:
        return "Real packets need root, because only root may make network namespaces and TUN devices."
    if shutil.which("ip") is None:
        return "Real packets need the program ip: apt-get install iproute2."
    if not _TUN.exists():
        return f"Real packets need {_TUN}, which this kernel or container does not have."
    return None


async def ip(*arguments: str) -> str:
    """Run ``ip`` of iproute2 and return what it prints. Raises RuntimeError with its words when it fails."""
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {said.decode(errors='replace').strip()}")
    return out.decode(errors="replace")


async def our_namespaces() -> list[str]:
    """The names of all namespaces of this program that exist, of this process and of others."""
    lines = (await ip("netns", "list")).splitlines()
    return [line.split()[0] for line in lines if line.startswith(PREFIX)]


async def remove_leftovers() -> list[str]:
    """Remove the namespaces whose process has ended without removing them. Returns their names."""
    removed = []
    for pair in sorted({name.removeprefix(PREFIX).rpartition("-")[0] for name in await our_namespaces()}):
        owner = _owner_socket(pair)
        if owner is None:
            continue
        with owner:
            removed += await _remove(Namespaces(pair))
    return removed


@asynccontextmanager
async def namespaces() -> AsyncIterator[Namespaces]:
    """A new pair of namespaces, each with its loopback device up. Left-overs of crashed processes are removed first.

    Raises NoPacketLine with the words of ``ip`` where the kernel refuses, as it does in many containers.
    """
    await remove_leftovers()
    pair = Namespaces(secrets.token_hex(4))
    owner = _owner_socket(pair.id)
    assert owner is not None
    with owner:
        try:
            await _make(pair)
            yield pair
        finally:
            await asyncio.shield(_remove(pair))


async def _make(pair: Namespaces) -> None:
    try:
        for name in (pair.client, pair.server):
            await ip("netns", "add", name)
            await ip("-n", name, "link", "set", "lo", "up")
    except RuntimeError as error:
        raise NoPacketLine(f"Real packets need network namespaces, and this machine refuses them: {error}") from error


def _owner_socket(pair: str) -> socket.socket | None:
    """Hold the abstract socket of a pair (unix(7)); None while another process holds it."""
    owner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        owner.bind(f"\0{PREFIX}{pair}")
    except OSError:
        owner.close()
        return None
    return owner


async def _remove(pair: Namespaces) -> list[str]:
    """Remove the namespaces of a pair that exist, and the processes that still run in them."""
    existing = set(await our_namespaces())
    removed = [name for name in (pair.client, pair.server) if name in existing]
    for name in removed:
        for pid in (await ip("netns", "pids", name)).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        await ip("netns", "delete", name)
    return removed
