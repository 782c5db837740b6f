"""The Store protocol on Redis or Valkey.

Every step that must be whole is one script on the server. What is committed is pushed to the nodes that read it, with its text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from shared.session import Message, Session
from shared.store.protocol import Append, Appended, News, NewTurn, Options, Started, StoredImage, TurnRow
from shared.store.record import Record
from shared.store.redis.address import parse_address
from shared.store.redis.commands import Commands, LuaScript
from shared.store.redis.contact import Contact
from shared.store.redis.keys import Keys
from shared.store.redis.leases import LeaseThread
from shared.store.redis.sessions import Sessions
from shared.store.redis.start_checks import check_store
from shared.store.redis.subscription import Subscription
from shared.store.redis.turns import Turns

_RENEW = LuaScript("renew")
_OVERDUE = LuaScript("overdue")


class RedisStore:
    """Raises ValueError with one clear sentence when the server cannot be used."""

    goes_back = True
    notice = ""

    def __init__(self, url: str, options: Options) -> None:
        address = parse_address(url, options.password)
        keys = Keys(address.prefix, address.database)
        self.committed = check_store(address, keys, options.ack_replicas)
        self._options = options
        self._address = address
        self._keys = keys
        self._contact = Contact(options.lease_s)
        self._commands = Commands(address, self._contact, options.ack_replicas)
        self._sessions = Sessions(self._commands, keys)
        self._turns = Turns(self._commands, keys, options)
        self._subscription = Subscription(address, self._commands, keys)
        self._lease: LeaseThread | None = None
        self._owner = ""
        # When each node's lease was first seen to be over, in the contact that goes on.
        self._overdue_since_s: dict[str, float] = {}

    @property
    def clock_offset_ms(self) -> float:
        """How far tests have moved the store's clock, for this store alone."""
        return self._commands.offset_ms

    @clock_offset_ms.setter
    def clock_offset_ms(self, offset_ms: float) -> None:
        self._commands.offset_ms = offset_ms
        self._contact.offset_s = offset_ms / 1000

    async def create_session(self, session_id: str, model_id: str | None, now: float) -> None:
        await self._sessions.create(session_id, model_id, now)

    async def get_session(self, session_id: str) -> Session | None:
        return await self._sessions.get(session_id)

    async def list_sessions(
        self, limit: int, before: tuple[float, str] | None, active_since: float
    ) -> tuple[list[Session], int]:
        return await self._sessions.page(limit, before, active_since)

    async def list_messages(self, session_id: str, limit: int, after: str | None) -> tuple[list[Message], bool]:
        return await self._sessions.messages(session_id, limit, after)

    async def clear_session(self, session_id: str, origin: str, now: float) -> None:
        await self._sessions.clear(session_id, origin, now, delete=False)

    async def delete_session(self, session_id: str, origin: str, now: float) -> None:
        await self._sessions.clear(session_id, origin, now, delete=True)

    async def start_turn(self, new: NewTurn) -> Started:
        return await self._turns.start(new)

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        return await self._turns.append(batch)

    async def get_turn(self, turn_id: str) -> TurnRow | None:
        found = await self._turns.get(turn_id)
        return found.row if found is not None else None

    async def read(self, turn_id: str, after: int) -> tuple[TurnRow, list[Record]] | None:
        found = await self._turns.read(turn_id, after)
        if found is None:
            return None
        row, records = found[0].row, found[1]
        self._subscription.has_read(turn_id, row.last_seq)
        return row, records

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        return await self._turns.read_text(turn_id)

    async def get_image(self, image_id: str) -> StoredImage | None:
        return await self._turns.image(image_id)

    async def cancel(self, turn_id: str, origin: str) -> None:
        await self._turns.cancel(turn_id, origin)

    def keep_leases(self, owner: str) -> None:
        self._owner = owner
        self._lease = LeaseThread(self._address, self._keys, self._contact, owner, self._options.lease_s)

    async def renew(
        self, owner: str, running: Sequence[str], read: Sequence[str], dropped: Sequence[str] = ()
    ) -> list[Appended]:
        keys, unsure = self._keys, list(self._turns.unsure)
        dropped = [*dropped, *unsure]
        answers = await self._commands.write(
            _RENEW,
            [keys.owners, keys.running(owner), keys.dropped, *map(keys.turn, [*running, *dropped, *read])],
            [owner, self._options.lease_s * 1000, len(running), len(dropped), *dropped],
        )
        self._turns.unsure.difference_update(unsure)
        return [Appended(not why, last_seq, why.decode(), cancel == b"1") for why, last_seq, cancel in answers]

    async def owned(self, owner: str) -> list[str]:
        return await self._turns.running(owner)

    async def reap(self) -> list[str]:
        overdue = await self._overdue("")
        now_s, since_s = self._contact.now_s(), self._contact.since_s()
        kept = {owner: first for owner, first in self._overdue_since_s.items() if first >= since_s}
        self._overdue_since_s = {owner: kept.get(owner, now_s) for owner in overdue}
        ended = [turn_id for turn_id in await self._turns.dropped() if await self._interrupt(turn_id, "")]
        if now_s - since_s < self._options.lease_s:
            return ended
        for owner, first_s in self._overdue_since_s.items():
            if now_s - first_s < self._options.lease_s / 3:
                continue
            for turn_id in await self._turns.running(owner):
                if await self._interrupt(turn_id, owner):
                    ended.append(turn_id)
            await self._overdue(owner)
        return ended

    async def _interrupt(self, turn_id: str, owner: str) -> bool:
        return await self._turns.interrupt(turn_id, owner, self._owner)

    async def _overdue(self, forgotten: str) -> list[str]:
        keys = self._keys
        found = await self._commands.write(_OVERDUE, [keys.owners, keys.running(forgotten)], [forgotten])
        return [owner.decode() for owner in found]

    async def follow(self, turn_id: str) -> None:
        await self._subscription.follow(turn_id)

    def unfollow(self, turn_id: str) -> None:
        self._subscription.unfollow(turn_id)

    def news(self, wanted: Callable[[], bool]) -> AsyncIterator[News]:
        return self._subscription.news()

    async def last_signal(self) -> int:
        return int(await self._commands.call(lambda client: client.get(self._keys.signals)) or 0)

    async def typing(self, session_id: str, origin: str, typing: bool) -> None:
        fields = ("0", "user_typing", origin, session_id, "", "typing" if typing else "stopped")
        await self._commands.publish([(self._keys.signal_channel, "\n".join(fields))])

    async def purge(self) -> bool:
        return bool(await self._sessions.empty_trash())

    async def check_write(self) -> None:
        await self._commands.call(lambda client: client.set(self._keys.write_check, "1"))

    async def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
        await self._commands.close()
