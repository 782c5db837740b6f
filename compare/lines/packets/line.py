"""The line between a client's and a server's network namespace, with a delay and a seeded loss."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from compare.lines.packets.carrier import Ask, Loss, Packets
from compare.lines.packets.namespaces import Namespaces, NoPacketLine, ip, namespaces

# Addresses for measuring devices (RFC 2544, appendix C); nothing outside the two namespaces sees them.
SERVER_ADDRESS = "198.18.0.1"
CLIENT_ADDRESS = "198.18.1.1"
_CLIENT_NETWORK, _SERVER_NETWORK = "198.18.1.0/24", "198.18.0.0/24"
# How many standard deviations a count may lie away from the share that was asked for: further by chance once in 16,000 counts.
_DEVIATIONS = 4.0
_ANSWER_S = 10.0


@dataclass(slots=True)
class PacketLine:
    """A running line."""

    namespaces: Namespaces
    delay_s: float
    _carrier: asyncio.subprocess.Process

    @property
    def in_client(self) -> tuple[str, ...]:
        """The beginning of a command line that runs a program on the client's side."""
        return ("ip", "netns", "exec", self.namespaces.client)

    @property
    def in_server(self) -> tuple[str, ...]:
        """The beginning of a command line that runs a program on the server's side."""
        return ("ip", "netns", "exec", self.namespaces.server)

    async def set_loss(self, share: float, seed: int) -> None:
        """Drop this share of the packets from the server from now on, and count anew."""
        await self._ask(Loss(share, seed))

    async def packets(self) -> Packets:
        """The packets since the last ``set_loss``."""
        return await self._ask(Ask())

    async def kernel_packets(self) -> tuple[int, int]:
        """How many packets the kernel has sent from the server's device, and received on the client's, since the start."""
        sent = await self._device_counters("server")
        received = await self._device_counters("client")
        return sent["tx"]["packets"], received["rx"]["packets"]

    async def _device_counters(self, side: str) -> dict[str, dict[str, int]]:
        name = self.namespaces.client if side == "client" else self.namespaces.server
        shown = await ip("-n", name, "-json", "-statistics", "link", "show", "dev", self.namespaces.device(side))
        counters: dict[str, dict[str, int]] = json.loads(shown)[0]["stats64"]
        return counters

    async def _ask(self, command: Loss | Ask) -> Packets:
        assert self._carrier.stdin is not None
        self._carrier.stdin.write(msgspec.json.encode(command) + b"\n")
        return await _answer(self._carrier)


async def _answer(carrier: asyncio.subprocess.Process) -> Packets:
    """The next line of the carrier. Raises NoPacketLine with its words when it has ended."""
    assert carrier.stdout is not None
    assert carrier.stderr is not None
    async with asyncio.timeout(_ANSWER_S):
        line = await carrier.stdout.readline()
        if not line:
            said = (await carrier.stderr.read()).decode(errors="replace").strip().rpartition("\n")[2]
            raise NoPacketLine(f"Real packets need two TUN devices, and the process that carries packets says: {said}")
    return msgspec.json.decode(line, type=Packets)


@asynccontextmanager
async def packet_line(delay_s: float) -> AsyncIterator[PacketLine]:
    """Two namespaces and the line between them; ``delay_s`` is the delay of each direction.

    Raises NoPacketLine where the kernel refuses a namespace or a device.
    """
    async with namespaces() as pair:
        names = [pair.device(side) for side in ("client", "server")]
        carrier = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "compare.lines.packets.carrier",
            *names,
            str(delay_s),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C reaches this process alone, which then ends the line after the servers.
            process_group=0,
        )
        try:
            await _answer(carrier)
            await _set_up(pair.client, names[0], f"{CLIENT_ADDRESS}/32", _SERVER_NETWORK)
            await _set_up(pair.server, names[1], f"{SERVER_ADDRESS}/32", _CLIENT_NETWORK)
            yield PacketLine(pair, delay_s, carrier)
        finally:
            with contextlib.suppress(ProcessLookupError):
                carrier.kill()
            await carrier.communicate()


async def _set_up(namespace: str, device: str, address: str, route: str) -> None:
    """Move a device into its namespace, and give it an address and the route to the other side."""
    await ip("link", "set", "dev", device, "netns", namespace)
    # Without an address of IPv6 the kernel sends no packets of its own, which would be counted.
    await ip("-n", namespace, "link", "set", "dev", device, "addrgenmode", "none", "up")
    await ip("-n", namespace, "address", "add", address, "dev", device)
    await ip("-n", namespace, "route", "add", route, "dev", device)
    # What a connection learned of the line must not help or harm the next connection.
    await ip("netns", "exec", namespace, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save")


def move_client(device: str, before: str, after: str) -> list[list[str]]:
    """The commands that change the client's address, to be run in its namespace."""
    return [
        ["ip", "address", "add", f"{after}/32", "dev", device],
        ["ip", "address", "delete", f"{before}/32", "dev", device],
    ]


def loss_bounds(share: float, packets: int) -> tuple[float, float]:
    """Between which counts the dropped of so many packets lie when each is dropped with this probability (binomial)."""
    spread = _DEVIATIONS * math.sqrt(packets * share * (1 - share))
    return packets * share - spread, packets * share + spread
