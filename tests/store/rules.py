"""The rules of the Redis store that keep the published races away, and each rule switched off in a copy of the store.

A test of a race runs with all rules, and again without its rule: then it must fail. So the test shows the rule, and not luck.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from shared.chat.turn_log import TurnLog
from shared.chat.turn_logs import TurnLogs
from shared.store.protocol import Append, Appended, Pushed
from shared.store.record import Record
from shared.store.redis import start_checks
from shared.store.redis.append_line import AppendLine
from shared.store.redis.commands import Commands, LuaScript
from shared.store.redis.contact import Contact
from shared.store.redis.keys import Keys
from shared.store.redis.store import RedisStore
from shared.store.redis.subscription import Subscription
from shared.store.redis.turns import Turns
from tests.conftest import until

Switch = Callable[[pytest.MonkeyPatch], None]
# With all rules a busy machine gets enough time. Without a rule the test waits for something that never comes.
_WAIT_S, _WAIT_WITHOUT_S = 30.0, 1.5


class Rules:
    """The rules under which a test runs."""

    def __init__(self, off: str) -> None:
        self.wait_s = _WAIT_WITHOUT_S if off else _WAIT_S

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for ``condition``. Raises TimeoutError, soon where a rule is off."""
        return await until(condition, self.wait_s)


def without(rule: str) -> pytest.MarkDecorator:
    """Run a test with all rules, and again without ``rule``: then it must fail, by an assertion or a time-out."""
    must_fail = pytest.mark.xfail(strict=True, raises=(AssertionError, TimeoutError), reason="the rule is off")
    return pytest.mark.parametrize(
        "rules",
        [pytest.param("", id="as it is"), pytest.param(rule, id=f"without: {rule}", marks=must_fail)],
        indirect=True,
    )


def _script(where: str, name: str, *changes: tuple[str, str]) -> Switch:
    """A script of the store with some of its lines changed; ``where`` is the variable that holds the script."""

    def switch(patch: pytest.MonkeyPatch) -> None:
        script = LuaScript(name)
        for before, after in changes:
            if before not in script.source:
                raise ValueError(f"{name}.lua has no {before!r} any more")
            script.source = script.source.replace(before, after)
        script.sha1 = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()
        patch.setattr(f"shared.store.redis.turns.{where}", script)

    return switch


def _no_checks_of_positions(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Subscription) -> None:
        """The store is not asked where the turns stand."""

    patch.setattr(Subscription, "_check_positions", nothing)


def _no_takeover(patch: pytest.MonkeyPatch) -> None:
    async def nobody(self: RedisStore, forgotten: str) -> list[str]:
        return []

    patch.setattr(RedisStore, "_overdue", nobody)


def _no_confirmation(patch: pytest.MonkeyPatch) -> None:
    async def follow(self: Subscription, turn_id: str) -> None:
        channel = self._keys.channel(turn_id)
        self._positions.setdefault(turn_id, 0)
        self._turns[channel.encode()] = turn_id
        self._later = asyncio.create_task(self._send("SUBSCRIBE", channel))  # type: ignore[attr-defined]

    patch.setattr(Subscription, "follow", follow)


def _told_before_stored(patch: pytest.MonkeyPatch) -> None:
    append = Turns._append

    async def told_first(self: Turns, group: list[Append]) -> list[Appended]:
        for entry in group:
            seqs = (entry.records[0].seq, entry.records[-1].seq)
            lines = b"\n".join(record.stored for record in entry.records)
            await self._commands.publish([(self._keys.channel(entry.turn_id), b"%d\n%d\n%b" % (*seqs, lines))])
        await asyncio.sleep(0.1)
        return await append(self, group)

    patch.setattr(Turns, "_append", told_first)


def _overlap_shown(patch: pytest.MonkeyPatch) -> None:
    async def apply(self: TurnLogs, pushed: Pushed) -> None:
        turn_log: TurnLog | None = self.get(pushed.turn_id)
        assert turn_log is not None
        decoded = [msgspec.json.decode(line) for line in pushed.lines]
        turn_log.publish(
            [
                Record.load(pushed.turn_id, event["seq"], line, lambda _: memoryview(b""))
                for event, line in zip(decoded, pushed.lines, strict=True)
            ]
        )

    patch.setattr(TurnLogs, "apply", apply)


def _silence_believed(patch: pytest.MonkeyPatch) -> None:
    async def check_forever(self: Subscription) -> None:
        await asyncio.Event().wait()

    patch.setattr(Subscription, "_check_forever", check_forever)


def _subscribed_once(patch: pytest.MonkeyPatch) -> None:
    subscribe = Subscription._serve

    async def once(self: Subscription, client: Any) -> None:
        if getattr(self, "_served", False):
            await asyncio.Event().wait()
        self._served = True  # type: ignore[attr-defined]
        await subscribe(self, client)

    patch.setattr(Subscription, "_serve", once)


def _any_policy(patch: pytest.MonkeyPatch) -> None:
    refuse = start_checks._refuse_unfit
    patch.setattr(
        start_checks, "_refuse_unfit", lambda info, address: refuse({**info, "maxmemory_policy": "noeviction"}, address)
    )


def _no_prefix(patch: pytest.MonkeyPatch) -> None:
    make = Keys.__init__
    patch.setattr(Keys, "__init__", lambda self, prefix, database: make(self, "genai", database))


def _channels_without_database(patch: pytest.MonkeyPatch) -> None:
    make = Keys.__init__
    patch.setattr(Keys, "__init__", lambda self, prefix, database: make(self, prefix, 0))


def _cancelled_with_its_caller(patch: pytest.MonkeyPatch) -> None:
    async def run(self: Commands, work: Callable[[], Awaitable[Any]], *, repeats: bool = False) -> Any:
        return await self._limited(work, repeats=repeats)

    patch.setattr(Commands, "_run", run)


def _stale_line_used(patch: pytest.MonkeyPatch) -> None:
    async def is_stale(self: AppendLine) -> bool:
        return False

    patch.setattr(AppendLine, "_is_stale", is_stale)


def _no_contact_needed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Contact, "since_s", lambda self: float("-inf"))
    reap = RedisStore.reap

    async def seen_long_ago(self: RedisStore) -> list[str]:
        overdue = await self._overdue("")
        self._overdue_since_s = dict.fromkeys(overdue, float("-inf"))
        return await reap(self)

    patch.setattr(RedisStore, "reap", seen_long_ago)


def _contact_goes_on(patch: pytest.MonkeyPatch) -> None:
    leave = Commands.leave_old_primary

    async def leave_unnoticed(self: Commands) -> bool:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(self.contact, "moved", lambda: None)
            return await leave(self)

    patch.setattr(Commands, "leave_old_primary", leave_unnoticed)


RULES: dict[str, Switch] = {
    "the log of an ended turn is kept": _script(
        "_APPEND", "append", ("redis.call('PEXPIREAT', keys.log, log_until)", "redis.call('DEL', keys.log)")
    ),
    "the store is asked where a quiet turn stands": _no_checks_of_positions,
    "the turns of a node without a lease are ended": _no_takeover,
    "key, session and turn are one step": _script(
        "_START",
        "start",
        ("if row[1] ~= ARGV[8] or row[2] ~= '' then return { 'again' } end", ""),
        ("if known and known ~= ARGV[18] then return { 'again' } end", ""),
    ),
    "a subscription is confirmed before the turn is read": _no_confirmation,
    "an event follows the last one in the log": _script(
        "_APPEND",
        "append",
        ("elseif mine and last_seq == first - 1 then", "elseif mine and last_seq < tonumber(first) then"),
    ),
    "an event is stored before it is told": _told_before_stored,
    "a cancel is a field of the turn": _script("_CANCEL", "cancel", ("redis.call('HSET', KEYS[1], 'cancel', '1')", "")),
    "an event that the log has is dropped": _overlap_shown,
    "a silent subscription is made anew": _silence_believed,
    "a lost subscription is made anew": _subscribed_once,
    "the log of an ended turn expires": _script(
        "_APPEND", "append", ("redis.call('PEXPIREAT', keys.log, log_until)", "")
    ),
    "a store that evicts is refused": _any_policy,
    "the log of a running turn does not expire": _script(
        "_START",
        "start",
        ("redis.call('SADD', run, turn)", "redis.call('SADD', run, turn) redis.call('PEXPIRE', log, 300)"),
    ),
    "keys have a prefix": _no_prefix,
    "channels have the number of the database": _channels_without_database,
    "the store says that it is behind": _script("_APPEND", "append", ("'behind', last_seq", "'fenced', last_seq")),
    "a command that was sent is not cancelled": _cancelled_with_its_caller,
    "a line with an answer that nobody read is closed": _stale_line_used,
    "the same entry again is done once": _script(
        "_APPEND", "append", ("if row[1] == owner and stored[1] and", "if false and")
    ),
    "a lease that ended during an outage proves nothing": _no_contact_needed,
    "a lease that is over at a new primary proves nothing": _contact_goes_on,
}
