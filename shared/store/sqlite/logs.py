"""The logs of turns: segments of JSON lines, and the images whose bytes they refer to."""

from __future__ import annotations

import apsw

from shared.store.record import Record


def read_log(connection: apsw.Connection, turn_id: str, after: int) -> list[Record]:
    """The records of a turn after seq ``after``."""
    images: dict[str, memoryview] = {}

    def image(image_id: str) -> memoryview:
        if image_id not in images:
            row = connection.execute("SELECT data FROM images WHERE image_id = ?", (image_id,)).fetchone()
            images[image_id] = memoryview(row[0] if row else b"")
        return images[image_id]

    records = []
    for first_seq, lines in connection.execute(
        "SELECT first_seq, lines FROM segments WHERE turn_id = ? AND last_seq > ? ORDER BY first_seq", (turn_id, after)
    ):
        for seq, line in enumerate(lines.split(b"\n"), first_seq):
            if seq > after:
                records.append(Record.load(turn_id, seq, line, image))
    return records


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
