"""The logs of turns: segments of JSON lines, and the images whose bytes they refer to."""

from __future__ import annotations

import contextlib

import apsw
import msgspec

from shared.store.protocol import Damaged
from shared.store.record import Record


class _Line(msgspec.Struct):
    """What the text of a turn needs of an event."""

    type: str
    text: str = ""


_line_decoder = msgspec.json.Decoder(_Line)


def read_log(connection: apsw.Connection, turn_id: str, after: int) -> list[Record]:
    """The records of a turn after seq ``after``. Raises Damaged for a log that has a gap or what is no event."""
    images: dict[str, memoryview] = {}

    def image(image_id: str) -> memoryview:
        if image_id not in images:
            row = connection.execute("SELECT data FROM images WHERE image_id = ?", (image_id,)).fetchone()
            images[image_id] = memoryview(row[0] if row else b"")
        return images[image_id]

    records: list[Record] = []
    for first_seq, last_seq, lines in connection.execute(
        "SELECT first_seq, last_seq, lines FROM segments WHERE turn_id = ? AND last_seq > ? ORDER BY first_seq",
        (turn_id, after),
    ):
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


def read_texts(connection: apsw.Connection, turn_id: str, after: int, max_segments: int = -1) -> tuple[list[str], int]:
    """The texts of the chunks after seq ``after``, from at most so many segments, and the last seq that was read.

    A segment that cannot be read is left out.
    """
    texts: list[str] = []
    with contextlib.suppress(apsw.CorruptError):
        for last_seq, lines in connection.execute(
            "SELECT last_seq, lines FROM segments WHERE turn_id = ? AND first_seq > ? ORDER BY first_seq LIMIT ?",
            (turn_id, after, max_segments),
        ):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                texts += [line.text for line in _line_decoder.decode_lines(lines) if line.type == "chunk"]
            after = last_seq
    return texts, after


def insert_segment(connection: apsw.Connection, turn_id: str, records: list[Record]) -> None:
    """Add the records of one commit to a log."""
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, ?)",
        (turn_id, records[0].seq, records[-1].seq, to_lines(records)),
    )


def to_lines(records: list[Record]) -> bytes:
    """The records of one commit as JSON lines."""
    return b"\n".join([record.stored for record in records])


def select_segment(connection: apsw.Connection, turn_id: str, first_seq: int) -> bytes | None:
    """The lines of the commit whose first record has this seq, if there is one."""
    row = connection.execute(
        "SELECT lines FROM segments WHERE turn_id = ? AND first_seq = ?", (turn_id, first_seq)
    ).fetchone()
    return row[0] if row else None
