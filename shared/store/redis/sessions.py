"""Sessions on Redis or Valkey: hashes with counters, and two indexes."""

from __future__ import annotations

from typing import Any

from shared.errors import ChatError
from shared.session import Message, Session
from shared.store.protocol import refuse_missing
from shared.store.redis.commands import Commands, LuaScript
from shared.store.redis.keys import Keys
from shared.store.redis.rows import session_of
from shared.store.texts import MAX_TEXT_BYTES, cut_text

_MAKE = LuaScript("session")
_CLEAR = LuaScript("clear")
_MESSAGES_AT_ONCE = 50
_MAX_TRASH = 200


class Sessions:
    """The part of the store that knows sessions."""

    def __init__(self, commands: Commands, keys: Keys) -> None:
        self._commands = commands
        self._keys = keys

    async def create(self, session_id: str, model_id: str | None, now: float) -> None:
        """Make a session."""
        keys = self._keys
        await self._commands.write(
            _MAKE, [keys.session(session_id), keys.by_age, keys.by_use], [session_id, model_id or "", repr(now)]
        )

    async def get(self, session_id: str) -> Session | None:
        """The session, or None."""
        fields = await self._commands.call(lambda client: client.hgetall(self._keys.session(session_id)))
        return session_of(session_id, fields) if fields else None

    async def page(
        self, limit: int, before: tuple[float, str] | None, active_since: float
    ) -> tuple[list[Session], int]:
        """A page of the index, then the rows; a session that was deleted between the two is left out."""
        keys = self._keys

        async def ids(client: Any) -> tuple[list[str], int]:
            found: list[str] = []
            top: str = "+inf"
            if before is not None:
                same = await client.zrevrangebyscore(keys.by_age, repr(before[0]), repr(before[0]))
                found = [name for name in map(bytes.decode, same) if name < before[1]][:limit]
                top = f"({before[0]!r}"
            if len(found) < limit:
                older = await client.zrevrangebyscore(keys.by_age, top, "-inf", 0, limit - len(found))
                found += map(bytes.decode, older)
            return found, int(await client.zcount(keys.by_use, repr(active_since), "+inf"))

        session_ids, active = await self._commands.call(ids)

        async def rows(client: Any) -> list[dict[bytes, bytes]]:
            pipeline = client.pipeline(transaction=False)
            for session_id in session_ids:
                pipeline.hgetall(keys.session(session_id))
            return list(await pipeline.execute())

        found = await self._commands.call(rows) if session_ids else []
        sessions = [session_of(name, fields) for name, fields in zip(session_ids, found, strict=True) if fields]
        return sessions, active

    async def messages(self, session_id: str, limit: int, after: str | None) -> tuple[list[Message], bool]:
        """A page of messages, and whether there are more; see the protocol."""
        keys = self._keys

        async def shown(client: Any) -> tuple[int, list[bytes]]:
            pipeline = client.pipeline(transaction=True)
            pipeline.exists(keys.session(session_id)).lrange(keys.shown(session_id), 0, -1)
            exists, ids = await pipeline.execute()
            return exists, ids

        exists, found = await self._commands.call(shown)
        refuse_missing(exists or None)
        turn_ids = [turn_id.decode() for turn_id in found]
        skip = 0
        if after is not None:
            turn_id, _, role = after.rpartition(":")
            if turn_id not in turn_ids or role not in ("user", "model"):
                raise ChatError(
                    "invalid_request", "cursor is not a cursor of this session's messages; read from the first page."
                )
            skip = 1 if role == "user" else 0
            turn_ids = turn_ids[turn_ids.index(turn_id) + (role == "model") :]
        page: list[Message] = []
        page_bytes = 0
        for start in range(0, len(turn_ids), _MESSAGES_AT_ONCE):
            for message in (await self._messages_of(turn_ids[start : start + _MESSAGES_AT_ONCE]))[skip:]:
                page_bytes += len(message.text.encode())
                if len(page) == limit or (page and page_bytes > MAX_TEXT_BYTES):
                    return page, True
                page.append(message)
            skip = 0
        return page, False

    async def _messages_of(self, turn_ids: list[str]) -> list[Message]:
        fields = ("input", "status", "text", "image", "created", "ended")

        async def rows(client: Any) -> list[list[bytes | None]]:
            pipeline = client.pipeline(transaction=False)
            for turn_id in turn_ids:
                pipeline.hmget(self._keys.turn(turn_id), *fields)
            return list(await pipeline.execute())

        messages = []
        for turn_id, row in zip(turn_ids, await self._commands.call(rows), strict=True):
            if row[1] is None:
                continue
            said, status, text, image, created, ended = ((value or b"").decode() for value in row)
            messages.append(_message(turn_id, "user", said, status, None, float(created)))
            if status != "running" and (text or image or status == "completed"):
                messages.append(_message(turn_id, "model", text, status, image or None, float(ended)))
        return messages

    async def clear(self, session_id: str, origin: str, now: float, *, delete: bool) -> None:
        """Clear or delete a session. Raises ``session_not_found``, ``turn_in_progress``."""
        keys = self._keys
        outcome, sent = await self._commands.write(
            _CLEAR,
            [
                keys.session(session_id),
                keys.shown(session_id),
                keys.all_turns(session_id),
                keys.by_age,
                keys.by_use,
                keys.trash,
                keys.signals,
            ],
            [session_id, origin, repr(now), keys.signal_channel, "delete" if delete else "clear"],
        )
        if outcome == b"missing":
            raise ChatError("session_not_found")
        if outcome == b"running":
            raise ChatError("turn_in_progress")
        if sent and not self._commands.pushes:
            await self._commands.publish([(keys.signal_channel, sent)])
        while await self.empty_trash():
            pass

    async def empty_trash(self) -> int:
        """Drop some turns that no session shows any more, and return their number.

        Doing so twice, or on two nodes, is safe.
        """
        keys = self._keys
        found = await self._commands.call(lambda client: client.lrange(keys.trash, 0, _MAX_TRASH - 1))
        if not found:
            return 0

        async def images(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for entry in found:
                turn_id = entry.split(b" ")[1].decode()
                pipeline.smembers(keys.images_of(turn_id))
                pipeline.hmget(keys.turn(turn_id), "log_until", "turn_until", "key")
            return list(await pipeline.execute())

        answers = await self._commands.call(images)

        async def drop(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for entry, pictures, (log_until, turn_until, request_id) in zip(
                found, answers[::2], answers[1::2], strict=True
            ):
                turn_id = entry.split(b" ")[1].decode()
                image_keys = [keys.image(name.decode()) for name in pictures]
                if entry.startswith(b"delete"):
                    dead = [keys.turn(turn_id), keys.log(turn_id), keys.images_of(turn_id), *image_keys]
                    pipeline.unlink(*dead, *([keys.request(request_id.decode())] if request_id else []))
                elif turn_until:
                    pipeline.pexpireat(keys.turn(turn_id), int(turn_until))
                    for image_key in image_keys:
                        pipeline.pexpireat(image_key, int(log_until))
                pipeline.lrem(keys.trash, 1, entry)
            await pipeline.execute()

        await self._commands.call(drop)
        return len(found)


def _message(turn_id: str, role: Any, text: str, status: Any, image_id: str | None, created_at: float) -> Message:
    text, truncated = cut_text(text)
    return Message(
        message_id=f"{turn_id}:{role}",
        turn_id=turn_id,
        role=role,
        text=text,
        status=status,
        image_id=image_id,
        created_at=created_at,
        truncated=truncated,
    )
