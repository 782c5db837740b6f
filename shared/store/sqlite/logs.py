"""The logs of turns: segments of JSON lines, and the images whose bytes they refer to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import apsw
import msgspec

from shared.store.protocol import Damaged
from shared.store.record import Record
from shared.store.sqlite.journal import Row, read_journal


class _Line(msgspec.Struct):
    """What the text of a turn needs of an event."""

    type: str
    text: str = ""


# A segment begins before the event that is looked for, and nothing else tells which one it is.
_SEGMENTS = """
SELECT first_seq, last_seq, lines FROM segments
WHERE turn_id = :turn AND last_seq > :after AND first_seq >= coalesce(
  (SELECT max(first_seq) FROM segments WHERE turn_id = :turn AND first_seq <= :after + 1), 0)
ORDER BY first_seq LIMIT :limit
"""
_line_decoder = msgspec.json.Decoder(_Line)


def read_log(connection: apsw.Connection, turn_id: str, after: int, *, running: bool = False) -> list[Record]:
    """The records of a turn after seq ``after``; those of a ``running`` turn are in the journal too.

    Raises Damaged for a log that has a gap or what is no event.
    """
    images: dict[str, memoryview] = {}

    def image(image_id: str) -> memoryview:
        if image_id not in images:
            row = connection.execute("SELECT data FROM images WHERE image_id = ?", (image_id,)).fetchone()
            images[image_id] = memoryview(row[0] if row else b"")
        return images[image_id]

    records: list[Record] = []
    for first_seq, last_seq, lines in _parts(connection, turn_id, after, running=running):
        split = lines.split(b"\n")
        if first_seq > after + len(records) + 1 or len(split) != last_seq - first_seq + 1:
            raise Damaged
        try:
            records += [
                Record.load(turn_id, seq, line, image) for seq, line in enumerate(split, first_seq) if seq > after
            ]
        except (ValueError, msgspec.MsgspecError):
            raise Damaged from None
    return records


def select_segments(connection: apsw.Connection, turn_id: str, after: int, limit: int = -1) -> Iterator[Row]:
    """The segments of a log with events after seq ``after``, in order; at most ``limit``."""
    return (Row(*row) for row in connection.execute(_SEGMENTS, {"turn": turn_id, "after": after, "limit": limit}))


def _parts(connection: apsw.Connection, turn_id: str, after: int, *, running: bool) -> Iterator[Row]:
    """The segments of a log, and then the rows of the journal that come after them."""
    for segment in select_segments(connection, turn_id, after):
        after = segment.last_seq
        yield segment
    if running:
        yield from read_journal(connection, turn_id, after)


def read_texts(
    connection: apsw.Connection, turn_id: str, after: int, max_segments: int = -1, journal: Sequence[Row] | None = None
) -> tuple[list[str], int]:
    """The texts of the chunks of a running turn after seq ``after``, and the last seq that was read.

    They come from at most so many segments, and when there are no more from the journal, or from the rows of it that are given.
    A segment that cannot be read is left out, with the segments that follow it.
    """
    texts: list[str] = []
    read, damaged = 0, True
    with contextlib.suppress(apsw.CorruptError):
        for segment in select_segments(connection, turn_id, after, max_segments):
            texts += _texts(segment, after)
            after = segment.last_seq
            read += 1
        damaged = False
    if read != max_segments:
        for row in read_journal(connection, turn_id, after, gaps=damaged) if journal is None else journal:
            if row.last_seq > after:
                texts += _texts(row, after)
                after = row.last_seq
    return texts, after


def _texts(row: Row, after: int) -> list[str]:
    """The texts of the chunks after seq ``after``; none where the lines are no events."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        events = _line_decoder.decode_lines(row.lines)[max(0, after + 1 - row.first_seq) :]
        return [event.text for event in events if event.type == "chunk"]
    return []
