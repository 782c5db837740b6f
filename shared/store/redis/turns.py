"""Turns and their logs on Redis or Valkey: starting, appending, reading, and ending what has no owner."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.errors import ChatError
from shared.events import TurnInterrupted, now_ms
from shared.llm.model import ContextMessage
from shared.store.protocol import Append, Appended, NewTurn, Options, Started, StoredImage, TurnRow
from shared.store.record import Record, partial
from shared.store.redis.commands import Argument, Commands, LuaScript
from shared.store.redis.errors import wrote_nothing
from shared.store.redis.keys import Keys
from shared.store.redis.rows import (
    TURN_FIELDS,
    StoredTurn,
    image_fields,
    image_from,
    lines_of,
    load_records,
    stored_turn,
)
from shared.store.starting import started_turn

_START = LuaScript("start")
_APPEND = LuaScript("append")
_INTERRUPT = LuaScript("interrupt")
_CANCEL = LuaScript("cancel")
_READ = LuaScript("read")

# While a script runs, the store serves no other command. Some managed services allow 3,999 arguments.
_MAX_ENTRIES = 200
# A larger segment is announced without its text, and the nodes that follow the turn read it.
_MAX_PUSHED_BYTES = 64 * 1024
_CONTEXT_PAGE = 50
# One step of reading a log: while a script runs, the store serves no other command.
_MAX_SEGMENTS = 1000
_START_TRIES_S = 5.0
# A picture is stored before the event that names it; it expires when that event never came.
_PICTURE_MS = 24 * 3_600_000


class Turns:
    """The part of the store that holds turns.

    ``unsure`` has the turns whose start was sent and never answered. No process generates them, so housekeeping drops them.
    """

    def __init__(self, commands: Commands, keys: Keys, options: Options) -> None:
        self.unsure: set[str] = set()
        self._commands = commands
        self._keys = keys
        self._options = options
        self._gone_ms = options.tombstone_s * 1000
        self._kept_ms = options.retention_s * 1000
        self._lease_ms = options.lease_s * 1000

    async def start(self, new: NewTurn) -> Started:
        """Read the rows on which the first event depends, then record the turn if no row has changed; else read again."""
        while True:
            known_turn = ""
            if new.request_id is not None:
                fields = await self._commands.call(
                    lambda client: client.hmget(self._keys.request(new.request_id), "t", "h")
                )
                if fields[0] is not None:
                    known = await self.get(fields[0].decode())
                    if known is not None and not known.row.expired:
                        if fields[1].decode() != new.request_hash:
                            raise ChatError("idempotency_key_reused")
                        return Started(turn=known.row, joined=True)
                    known_turn = fields[0].decode()
            started = await self._record(new, known_turn)
            if started is not None:
                return started
            await asyncio.sleep(random.random() * 0.005)

    async def _record(self, new: NewTurn, known_turn: str) -> Started | None:
        keys, session_model, revision = self._keys, "", ""
        session_id = new.session_id or new.new_session_id
        context: tuple[ContextMessage, ...] = ()
        if new.session_id is not None:
            rev, running, model = await self._commands.call(
                lambda client: client.hmget(keys.session(session_id), "rev", "running", "model")
            )
            if rev is None:
                raise ChatError("session_not_found")
            if running:
                raise ChatError("turn_in_progress")
            revision, session_model = rev.decode(), model.decode()
            if new.kind == "chat":
                context = await self._context(new.session_id, new.max_context_chars)
        started = started_turn(new, session_id, session_model, context, now_ms())
        assert started.first is not None
        outcome = await self._start(new, session_id, revision, known_turn, started.first)
        if outcome[0] == b"missing":
            raise ChatError("session_not_found")
        if outcome[0] != b"ok":
            return None
        if outcome[2] and not self._commands.pushes:
            await self._commands.publish([(keys.signal_channel, outcome[2])])
        return replace(started, message_count=None if outcome[1] < 0 else outcome[1])

    async def _start(
        self, new: NewTurn, session_id: str | None, revision: str, known_turn: str, first: Record
    ) -> list[Any]:
        """Run the script until it has answered: a turn that may be recorded is either generated or dropped."""
        keys = self._keys
        key_list = [
            keys.request(new.request_id),
            keys.session(session_id),
            keys.shown(session_id),
            keys.all_turns(session_id),
            keys.turn(new.turn_id),
            keys.log(new.turn_id),
            keys.by_age,
            keys.by_use,
            keys.owners,
            keys.running(new.owner),
            keys.signals,
        ]
        arguments: list[Argument] = [
            new.turn_id,
            session_id or "",
            "1" if new.session_id is None else "",
            new.model_id or "",
            revision,
            new.kind,
            new.input,
            new.request_id or "",
            new.request_hash,
            new.owner,
            repr(first.event.at),
            self._lease_ms,
            first.stored,
            keys.signal_channel,
            known_turn,
        ]
        deadline_s, pause_s, sure = time.monotonic() + _START_TRIES_S, 0.05, True
        while True:
            try:
                return list(await self._commands.write(_START, key_list, arguments))
            except ChatError as error:
                sure = sure and wrote_nothing(error)
                if sure:
                    raise
                if time.monotonic() > deadline_s:
                    self.unsure.add(new.turn_id)
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 1.0)

    async def _context(self, session_id: str, max_chars: int) -> tuple[ContextMessage, ...]:
        """The newest turns whose texts fit in ``max_chars``, oldest first; read backwards, page by page."""
        turns: list[tuple[str, str]] = []
        chars, end = 0, -1
        while True:
            page = await self._context_page(session_id, end)
            for kind, said, status, text in page:
                usable = kind == "chat" and status in ("completed", "cancelled", "interrupted")
                if not usable or not text.strip():
                    continue
                chars += len(said) + len(text)
                if chars > max_chars:
                    break
                turns.append((said, text))
            if chars > max_chars or len(page) < _CONTEXT_PAGE:
                break
            end -= _CONTEXT_PAGE
        return tuple(
            message
            for said, text in reversed(turns)
            for message in (ContextMessage("user", said), ContextMessage("model", text))
        )

    async def _context_page(self, session_id: str, end: int) -> list[tuple[str, ...]]:
        keys = self._keys

        async def rows(client: Any) -> list[Any]:
            ids = await client.lrange(keys.shown(session_id), end - _CONTEXT_PAGE + 1, end)
            pipeline = client.pipeline(transaction=False)
            for turn_id in reversed(ids):
                pipeline.hmget(keys.turn(turn_id.decode()), "kind", "input", "status", "text")
            return list(await pipeline.execute()) if ids else []

        return [tuple((value or b"").decode() for value in row) for row in await self._commands.call(rows)]

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        """Store the pictures, then the events that name them."""
        done: list[Appended] = []
        for start in range(0, len(batch), _MAX_ENTRIES):
            group = batch[start : start + _MAX_ENTRIES]
            await self._put_images([image for entry in group for image in entry.images])
            done += await self._append(group)
        return done

    async def _append(self, group: Sequence[Append]) -> list[Appended]:
        keys, owner = self._keys, group[0].owner
        key_list = [keys.owners, keys.by_use, keys.running(owner), keys.signals]
        arguments: list[Argument] = [
            owner,
            self._lease_ms,
            self._kept_ms,
            self._gone_ms,
            keys.signal_channel,
            "" if self._commands.pushes else "1",
            len(group),
        ]
        end_keys: list[str] = []
        ends: list[Argument] = []
        for entry in group:
            lines, end = _lines(entry), entry.end
            key_list += (keys.turn(entry.turn_id), keys.log(entry.turn_id))
            arguments += (
                keys.channel(entry.turn_id),
                entry.records[0].seq,
                entry.records[-1].seq,
                lines,
                ("" if _is_pushed(entry, lines) else "m") + ("e" if end else ""),
            )
            if end:
                end_keys += (keys.session(entry.session_id), keys.image(end.image_id), keys.request(entry.request_id))
                ends += (
                    entry.turn_id,
                    entry.session_id or "",
                    end.status,
                    repr(end.ended_at),
                    end.text,
                    end.image_id or "",
                )
        # The answer names only the entries of which there is more to say than that they are stored.
        outcomes = [Appended(True, entry.records[-1].seq) for entry in group]
        signals: dict[int, bytes] = {}
        for number, why, last_seq, cancel, sent in await self._commands.append(
            _APPEND, key_list + end_keys, arguments + ends
        ):
            outcomes[number - 1] = Appended(not why, last_seq, why.decode(), cancel == b"1")
            if sent:
                signals[number - 1] = sent
        if not self._commands.pushes:
            await self._push(group, outcomes, signals)
        return outcomes

    async def _push(self, group: Sequence[Append], outcomes: Sequence[Appended], signals: dict[int, bytes]) -> None:
        """Push what the script would have pushed, where the replicas are waited for first."""
        messages: list[tuple[str, str | bytes]] = []
        for number, (entry, outcome) in enumerate(zip(group, outcomes, strict=True)):
            if outcome.done:
                lines, seqs = _lines(entry), (entry.records[0].seq, entry.records[-1].seq)
                text = b"%d\n%d\n%b" % (*seqs, lines if _is_pushed(entry, lines) else b"")
                messages.append((self._keys.channel(entry.turn_id), text))
            if number in signals:
                messages.append((self._keys.signal_channel, signals[number]))
        await self._commands.publish(messages)

    async def _put_images(self, images: list[StoredImage]) -> None:
        keys = self._keys
        for image in images:

            async def put(client: Any, image: StoredImage = image) -> None:
                pipeline = client.pipeline(transaction=True)
                until_ms = int(self._kept_ms + _PICTURE_MS)
                pipeline.hset(keys.image(image.image_id), mapping=image_fields(image))
                pipeline.pexpire(keys.image(image.image_id), until_ms)
                pipeline.sadd(keys.images_of(image.turn_id), image.image_id)
                pipeline.pexpire(keys.images_of(image.turn_id), int(until_ms + self._gone_ms))
                await pipeline.execute()

            await self._commands.call(put)

    async def cancel(self, turn_id: str, origin: str) -> None:
        """Record the request to cancel a running turn, and signal its owner."""
        keys = self._keys
        sent = await self._commands.write(
            _CANCEL, [keys.turn(turn_id), keys.signals], [turn_id, origin, keys.signal_channel]
        )
        if sent and not self._commands.pushes:
            await self._commands.publish([(keys.signal_channel, sent)])

    async def get(self, turn_id: str) -> StoredTurn | None:
        """The turn, or None."""
        keys = self._keys
        fields, _, now, lease = await self._commands.read(
            _READ, [keys.turn(turn_id), keys.log(turn_id), keys.owners], ["", 0, *TURN_FIELDS]
        )
        return stored_turn(turn_id, fields, float(now), float(lease))

    async def read(self, turn_id: str, after: int) -> tuple[StoredTurn, list[Record]] | None:
        """The turn and its records after seq ``after``; a long log in several steps, the turn from the last of them."""
        keys, lines = self._keys, list[tuple[int, bytes]]()
        while True:
            fields, segments, now, lease = await self._commands.read(
                _READ,
                [keys.turn(turn_id), keys.log(turn_id), keys.owners],
                [lines[-1][0] if lines else after, _MAX_SEGMENTS, *TURN_FIELDS],
            )
            found = stored_turn(turn_id, fields, float(now), float(lease))
            if found is None:
                return None
            lines += lines_of(segments, lines[-1][0] if lines else after)
            if len(segments) < _MAX_SEGMENTS:
                break
        if found.row.expired:
            return found, []
        return found, await self._commands.call(lambda client: load_records(client, keys, turn_id, lines))

    async def read_text(self, turn_id: str) -> tuple[TurnRow, str] | None:
        """The turn and its text so far."""
        found = await self.get(turn_id)
        if found is not None and found.row.status == "running":
            log = await self.read(turn_id, 0)
            if log is not None and log[0].row.status == "running":
                return log[0].row, partial(record.event for record in log[1])[0]
            found = log[0] if log is not None else None
        if found is None:
            return None
        text = await self._commands.call(lambda client: client.hget(self._keys.turn(turn_id), "text"))
        return found.row, (text or b"").decode()

    async def image(self, image_id: str) -> StoredImage | None:
        """The picture, or None."""
        fields = await self._commands.call(lambda client: client.hgetall(self._keys.image(image_id)))
        return image_from(image_id, fields) if fields else None

    async def running(self, owner: str) -> list[str]:
        """The running turns of a node."""
        found = await self._commands.call(lambda client: client.smembers(self._keys.running(owner)))
        return sorted(turn_id.decode() for turn_id in found)

    async def dropped(self) -> list[str]:
        """The running turns that their nodes gave up."""
        found = await self._commands.call(lambda client: client.smembers(self._keys.dropped))
        return sorted(turn_id.decode() for turn_id in found)

    async def interrupt(self, turn_id: str, owner: str, ended_by: str) -> bool:
        """End a turn whose owner's lease is over; False when the turn has ended or the lease holds.

        ``owner`` is the node in whose list the turn is.
        """
        keys = self._keys
        found = await self.read(turn_id, 0)
        if found is None:
            await self._commands.call(lambda client: client.srem(keys.running(owner), turn_id))
            await self._commands.call(lambda client: client.srem(keys.dropped, turn_id))
            return False
        (row, request_id), records = found
        text, chunks, sha256 = partial(record.event for record in records)
        ended_at = now_ms()
        event = TurnInterrupted(
            turn_id=turn_id, seq=row.last_seq + 1, at=ended_at, chunks=chunks, sha256=sha256, epoch=1
        )
        image_id = await self._final_image(turn_id) if row.kind == "image" else None
        line, channel = Record.of(event).stored, keys.channel(turn_id)
        ended, sent = await self._commands.write(
            _INTERRUPT,
            [
                keys.owners,
                keys.by_use,
                keys.running(owner),
                keys.signals,
                keys.dropped,
                keys.turn(turn_id),
                keys.log(turn_id),
                keys.session(row.session_id),
                keys.image(image_id),
                keys.request(request_id),
            ],
            [
                row.owner,
                row.last_seq,
                self._kept_ms,
                self._gone_ms,
                keys.signal_channel,
                turn_id,
                row.session_id or "",
                channel,
                line,
                repr(ended_at),
                text,
                image_id or "",
                ended_by,
            ],
        )
        if ended and not self._commands.pushes:
            messages: list[tuple[str, str | bytes]] = [(channel, b"%d\n%d\n%b" % (event.seq, event.seq, line))]
            await self._commands.publish([*messages, *([(keys.signal_channel, sent)] if sent else [])])
        return bool(ended)

    async def _final_image(self, turn_id: str) -> str | None:
        keys = self._keys

        async def final(client: Any) -> str | None:
            for name in sorted(await client.smembers(keys.images_of(turn_id))):
                image_id = str(name.decode())
                if await client.hget(keys.image(image_id), "preview") == b"0":
                    return image_id
            return None

        return await self._commands.call(final)


def _lines(entry: Append) -> bytes:
    """The segment that an entry adds to its log: the stored JSON of its events, a line each."""
    return b"\n".join([record.stored for record in entry.records])


def _is_pushed(entry: Append, lines: bytes) -> bool:
    """Whether the segment is pushed with its text. The bytes of pictures are read from the store."""
    return len(lines) <= _MAX_PUSHED_BYTES and not entry.images
