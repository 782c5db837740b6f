"""The texts of running turns, for snapshots: each part of a log is decoded once, however often the text is asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import apsw

from shared.store.protocol import TurnRow
from shared.store.sqlite.logs import read_texts
from shared.store.sqlite.rows import select_turn_and_text, snapshot
from shared.store.sqlite.worker import InlineWorker, Worker

_MAX_TURNS = 256
# One operation reads no more than this, so that other readers need not wait for a long log.
_MAX_SEGMENTS = 500


class RunningTexts:
    """The texts of the turns that were asked for lately, up to the last seq that was read."""

    def __init__(self, reader: Worker | InlineWorker) -> None:
        self._reader = reader
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()

    async def read(self, turn_id: str, now: float) -> tuple[TurnRow, str] | None:
        """The turn and its text so far; None when there is no such turn."""
        text, after = self._known.get(turn_id, ("", 0))
        pieces = [text]

        def read_more(connection: apsw.Connection) -> tuple[TurnRow | None, list[str], int]:
            found = select_turn_and_text(connection, turn_id, now)
            if found is not None and found[0].status == "running":
                # The last seq and the log must be of one moment.
                with snapshot(connection):
                    found = select_turn_and_text(connection, turn_id, now)
                    if found is not None and found[0].status == "running":
                        texts, reached = read_texts(connection, turn_id, after, _MAX_SEGMENTS)
                        return replace(found[0], last_seq=max(found[0].last_seq, reached)), texts, reached
            # The text of a turn that has ended does not change.
            return (found[0], [found[1]], after) if found is not None else (None, [], after)

        while True:
            turn, more, reached = await self._reader.run(read_more)
            if turn is None or turn.status != "running":
                self._known.pop(turn_id, None)
                return (turn, "".join(more)) if turn is not None else None
            pieces += more
            if reached >= turn.last_seq or reached == after:
                break
            after = reached
        text = "".join(pieces)
        self._known[turn_id] = (text, reached)
        self._known.move_to_end(turn_id)
        if len(self._known) > _MAX_TURNS:
            self._known.popitem(last=False)
        return turn, text
