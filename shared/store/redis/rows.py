"""From the store's hashes and streams to rows, sessions and records, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from shared.session import Session, title_of
from shared.store.protocol import StoredImage, TurnRow
from shared.store.record import Record, image_of
from shared.store.redis.keys import Keys

TURN_FIELDS = (
    "session",
    "kind",
    "status",
    "last_seq",
    "owner",
    "epoch",
    "ended",
    "read",
    "log_until",
    "turn_until",
    "key",
)


class StoredTurn(NamedTuple):
    """A turn as the protocol shows it, and what only this store needs: its idempotency key."""

    row: TurnRow
    request_id: str | None


def stored_turn(turn_id: str, fields: list[bytes | None], now: float, lease: float) -> StoredTurn | None:
    """The turn from the values of TURN_FIELDS; ``now`` and the end of the lease by the store's clock.

    None where there is no such turn, or it is forgotten.
    """
    session, kind, status, last_seq, owner, epoch, ended, read, log_until, turn_until, key = (
        None if value is None else value.decode() for value in fields
    )
    if kind is None or status is None or owner is None or (turn_until and float(turn_until) <= now):
        return None
    row = TurnRow(
        turn_id=turn_id,
        kind="image" if kind == "image" else "chat",
        session_id=session or None,
        status=status,  # type: ignore[arg-type]  # written by this program
        last_seq=int(last_seq or 0),
        owner=owner,
        epoch=int(epoch or 0),
        unread_ms=max(0.0, now - float(read or now)),
        lease=lease,
        ended_at=float(ended) if ended else None,
        expired=bool(log_until and float(log_until) <= now),
    )
    return StoredTurn(row, key or None)


def session_of(session_id: str, fields: dict[bytes, bytes]) -> Session:
    """The session that a hash holds."""
    users, models = int(fields[b"um"]), int(fields[b"mm"])
    return Session(
        session_id=session_id,
        model=fields[b"model"].decode() or None,
        created_at=float(fields[b"created"]),
        last_activity_at=float(fields[b"used"]),
        message_count=users + models,
        user_messages=users,
        model_messages=models,
        running_turn_id=fields[b"running"].decode() or None,
        last_turn_id=fields[b"last"].decode() or None,
        # The script cuts between bytes, so the last character may be a part of one.
        title=title_of(fields.get(b"title", b"").decode(errors="ignore")),
    )


def image_fields(image: StoredImage) -> dict[str, str | int | bytes]:
    """The hash of a picture."""
    return {
        "turn": image.turn_id,
        "mime": image.mime_type,
        "width": image.width,
        "height": image.height,
        "sha256": image.sha256,
        "preview": int(image.preview),
        # An empty text is not the same as none.
        "prompt": "" if image.revised_prompt is None else "=" + image.revised_prompt,
        "data": image.data,
    }


def image_from(image_id: str, fields: dict[bytes, bytes]) -> StoredImage:
    """The picture that a hash holds."""
    prompt = fields[b"prompt"].decode()
    return StoredImage(
        image_id=image_id,
        turn_id=fields[b"turn"].decode(),
        mime_type=fields[b"mime"].decode(),
        width=int(fields[b"width"]),
        height=int(fields[b"height"]),
        sha256=fields[b"sha256"].decode(),
        preview=fields[b"preview"] == b"1",
        revised_prompt=prompt[1:] if prompt else None,
        data=fields[b"data"],
    )


def lines_of(segments: list[Any], after: int) -> list[tuple[int, bytes]]:
    """Seq and stored JSON of what the segments of a log have after seq ``after``."""
    found = []
    for entry_id, fields in segments:
        lines = fields[1].split(b"\n")
        first = int(entry_id.split(b"-")[0]) - len(lines) + 1
        found += [(seq, line) for seq, line in enumerate(lines, first) if seq > after]
    return found


async def load_records(client: Any, keys: Keys, turn_id: str, lines: list[tuple[int, bytes]]) -> list[Record]:
    """The records of these lines; the bytes of the pictures that they refer to are read once."""
    pictures: dict[str, memoryview] = {}
    for _, line in lines:
        image_id = image_of(line)
        if image_id is not None and image_id not in pictures:
            data = await client.hget(keys.image(image_id), "data")
            pictures[image_id] = memoryview(data or b"")
    return [Record.load(turn_id, seq, line, pictures.__getitem__) for seq, line in lines]
