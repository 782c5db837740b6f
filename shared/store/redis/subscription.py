"""One subscription a node: it receives the events that the store pushes, and asks once a second for events that a push lost.

The store sends a push once, to the nodes that are connected then. A connection may also break without a sign. So a node follows a
turn in this order: subscribe, wait for the confirmation, read the turn from the store, then apply the pushes. After each new
subscription the node reads all turns that it follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from shared.errors import ChatError
from shared.store.protocol import Moved, News, NewsLost, Pushed, Signal
from shared.store.redis.address import Address
from shared.store.redis.commands import Commands
from shared.store.redis.connections import ANSWER_TIMEOUT_S, close_client, subscription_client
from shared.store.redis.contact import CHECK_S
from shared.store.redis.keys import Keys

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 1.0


class _Broken(Exception):
    """The subscription is to be made anew."""


class Subscription:
    """Give ``news`` to one task; ``follow`` a turn before it is read."""

    def __init__(self, address: Address, commands: Commands, keys: Keys) -> None:
        self._address = address
        self._commands = commands
        self._keys = keys
        self._sharded = address.form == "cluster"
        self._positions: dict[str, int] = {}
        self._seen_before: dict[str, int] = {}
        # The followed turns by their channels, and the channels to which the connection is subscribed.
        self._turns: dict[bytes, str] = {}
        self._subscribed: set[bytes] = set()
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._connection: Any = None
        self._heard_s = 0.0
        self._news: asyncio.Queue[News] = asyncio.Queue()
        self._signal_channel = keys.signal_channel.encode()

    async def news(self) -> AsyncIterator[News]:
        """Yield the news of the store. The subscription is open while the caller iterates."""
        task = asyncio.create_task(self._subscribe_forever(), name="subscription")
        try:
            while True:
                yield await self._news.get()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def follow(self, turn_id: str) -> None:
        """Have the store push the events of a turn from now on. Returns when the store has confirmed the subscription.

        Returns at once while there is no connection: the next connection reads all turns that are followed.
        """
        if turn_id in self._positions and turn_id not in self._confirmations:
            return
        self._positions.setdefault(turn_id, 0)
        self._turns[self._keys.channel(turn_id).encode()] = turn_id
        if self._connection is None:
            return
        confirmation = self._confirmations.get(turn_id)
        if confirmation is None:
            confirmation = self._confirmations[turn_id] = asyncio.get_running_loop().create_future()
            # A connection that is closed at this moment fails in many ways. The next connection subscribes to the channel.
            with contextlib.suppress(Exception):
                await self._send("SUBSCRIBE", self._keys.channel(turn_id))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(confirmation), ANSWER_TIMEOUT_S)

    def unfollow(self, turn_id: str) -> None:
        """Stop following a turn. The next check of the positions unsubscribes its channel."""
        self._positions.pop(turn_id, None)
        self._seen_before.pop(turn_id, None)
        self._turns.pop(self._keys.channel(turn_id).encode(), None)

    def has_read(self, turn_id: str, last_seq: int) -> None:
        """Note up to where a followed turn has been read."""
        if turn_id in self._positions:
            self._positions[turn_id] = last_seq

    async def _subscribe_forever(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                client = await subscription_client(self._address, self._keys.owners)
                try:
                    await self._serve(client)
                finally:
                    self._forget_connection()
                    await close_client(client)
            except Exception:  # noqa: BLE001 - whatever broke, only a new subscription has the readers told of events
                pause_s = _FIRST_PAUSE_S if self._heard_s > time.monotonic() - CHECK_S * 3 else pause_s
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    async def _serve(self, client: Any) -> None:
        """Use one connection: subscribe to all channels, report that news may be lost, then listen and check each second.

        The messages are read from the library's connection. Its PubSub would pass each of them through a retry and two
        measurements, which cost more than all else that a reader does with an event.
        """
        self._connection = connection = await client.connection_pool.get_connection()
        channels = [self._keys.signal_channel, *map(self._keys.channel, self._positions)]
        loop = asyncio.get_running_loop()
        for turn_id in self._positions:
            self._confirmations.setdefault(turn_id, loop.create_future())
        await self._send("SUBSCRIBE", *channels)
        waiting = {channel.encode() for channel in channels}
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while waiting:
                message = await connection.read_response()
                self._handle(message)
                waiting.discard(message[1])
        self._heard_s = time.monotonic()
        self._news.put_nowait(NewsLost())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(connection))
            group.create_task(self._check_forever())
            if self._address.form == "sentinel":
                group.create_task(self._check_primary_forever())

    def _forget_connection(self) -> None:
        self._connection = None
        self._subscribed.clear()
        confirmations, self._confirmations = self._confirmations, {}
        for confirmation in confirmations.values():
            if not confirmation.done():
                confirmation.set_result(None)

    async def _send(self, command: str, *channels: str | bytes) -> None:
        # The library would connect again by itself, and the new connection would have no subscriptions.
        if not self._connection.is_connected:
            raise _Broken
        name = "S" + command if self._sharded and channels else command
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._connection.send_command(name, *channels)

    async def _listen(self, connection: Any) -> None:
        while True:
            self._handle(await connection.read_response())

    def _handle(self, message: list[Any]) -> None:
        """Pass on one message of the connection (RESP2): kind, channel, data."""
        self._heard_s = time.monotonic()
        kind, channel = message[0], message[1]
        if kind in (b"message", b"smessage"):
            turn_id = self._turns.get(channel)
            if turn_id is not None:
                first, last, lines = message[2].split(b"\n", 2)
                self._positions[turn_id] = int(last)
                pushed = Pushed(turn_id, int(first), lines.split(b"\n")) if lines else Moved(turn_id)
                self._news.put_nowait(pushed)
            elif channel == self._signal_channel:
                signal = _signal(message[2])
                if signal is not None:
                    self._news.put_nowait(signal)
        elif kind in (b"subscribe", b"ssubscribe"):
            self._subscribed.add(channel)
            confirmation = self._confirmations.pop(self._keys.turn_of(channel.decode()), None)
            if confirmation is not None and not confirmation.done():
                confirmation.set_result(None)
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            self._subscribed.discard(channel)
            if channel == self._signal_channel or channel in self._turns:
                # A cluster ends a subscription without an error when it moves the slot to another node.
                raise _Broken

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            if time.monotonic() - self._heard_s > 2 * CHECK_S:
                raise _Broken
            await self._send("PING")
            gone = self._subscribed - self._turns.keys() - {self._signal_channel}
            if gone:
                await self._send("UNSUBSCRIBE", *gone)
            with contextlib.suppress(ChatError):
                await self._check_positions()

    async def _check_primary_forever(self) -> None:
        while True:
            if await self._commands.leave_old_primary():
                raise _Broken
            await asyncio.sleep(CHECK_S)

    async def _check_positions(self) -> None:
        """Compare the store's last seq with the last pushed seq, for the turns without news since the last check."""
        quiet = [turn_id for turn_id, seq in self._positions.items() if self._seen_before.get(turn_id) == seq]
        self._seen_before = dict(self._positions)
        if not quiet:
            return

        async def seqs(client: Any) -> list[bytes | None]:
            pipeline = client.pipeline(transaction=False)
            for turn_id in quiet:
                pipeline.hget(self._keys.turn(turn_id), "last_seq")
            return list(await pipeline.execute())

        for turn_id, last_seq in zip(quiet, await self._commands.call(seqs), strict=True):
            if turn_id in self._positions and int(last_seq or -1) != self._positions[turn_id]:
                self._news.put_nowait(Moved(turn_id))


def _signal(message: bytes) -> Signal | None:
    """The signal in a message; None for a message that this version does not know. The start check sends an empty message."""
    fields = message.decode().split("\n")
    if len(fields) != 6:
        return None
    signal_id, kind, origin, session_id, turn_id, count = fields
    return Signal(
        signal_id=int(signal_id),
        origin=origin,
        kind=kind,  # type: ignore[arg-type]  # written by this program
        session_id=session_id or None,
        turn_id=turn_id or None,
        message_count=int(count) if count.isdecimal() else None,
        typing=count == "typing",
    )
