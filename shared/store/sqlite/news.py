"""News on SQLite: a look at the database every 20 ms, because SQLite has no way to wake another process.

A database in memory is looked at only when a turn is followed, because no other process writes there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

import apsw
import msgspec

from shared.errors import ChatError
from shared.store.protocol import Moved, News, Pushed, Signal
from shared.store.record import image_of
from shared.store.sqlite import rows
from shared.store.sqlite.journal import select_journal
from shared.store.sqlite.logs import select_segments
from shared.store.sqlite.worker import InlineWorker, Worker

_LOOK_S = 0.02
# The shortest pause between two looks, also after a look that took long.
_PAUSE_S = 0.01
_RETRY_S = 1.0


class NewsWatch:
    """What other connections have committed since the last look: signals, and the events of the turns that are followed.

    ``shared``: other processes may write into the database.
    """

    def __init__(self, reader: Worker | InlineWorker, *, shared: bool) -> None:
        self._reader = reader
        self._shared = shared
        self._positions: dict[str, int] = {}
        self._data_version = -1
        # The row of the journal up to which the followed turns have been told.
        self._journaled = 0
        # A followed turn has events that have not been told, whether or not another connection has written since.
        self._behind = asyncio.Event()

    def follow(self, turn_id: str) -> None:
        """Look at this turn too. The events that it has now are news."""
        self._positions.setdefault(turn_id, 0)
        self._behind.set()

    def unfollow(self, turn_id: str) -> None:
        """Stop looking at a turn."""
        self._positions.pop(turn_id, None)
        if not self._positions:
            self._behind.clear()

    def has_read(self, turn_id: str, last_seq: int) -> None:
        """Note that a turn has been read up to ``last_seq``: those events are no news."""
        if turn_id in self._positions:
            self._positions[turn_id] = last_seq

    async def news(self, wanted: Callable[[], bool]) -> AsyncIterator[News]:
        """What is new, look by look. A look that fails is repeated, so nothing is lost."""
        last_signal = await self._reader.run(rows.last_signal)
        begun = time.monotonic()
        while True:
            if not self._shared:
                await self._behind.wait()
            await asyncio.sleep(max(_PAUSE_S, begun + _LOOK_S - time.monotonic()))
            begun = time.monotonic()
            if not wanted():
                continue
            positions, again = dict(self._positions), self._behind.is_set()
            self._behind.clear()
            try:
                found = await self._reader.run(lambda c: self._look(c, last_signal, positions, again))  # noqa: B023
            except ChatError:
                self._behind.set()
                await asyncio.sleep(_RETRY_S)
                continue
            for news in found:
                if isinstance(news, Signal):
                    last_signal = max(last_signal, news.signal_id)
                elif isinstance(news, Pushed):
                    self.has_read(news.turn_id, news.first_seq + len(news.lines) - 1)
                yield news

    def _look(
        self, connection: apsw.Connection, last_signal: int, positions: Mapping[str, int], again: bool
    ) -> list[News]:
        """What there is after these positions; nothing when no other connection has written since the last look."""
        version = int(connection.pragma("data_version"))
        if version == self._data_version and not again:
            return []
        with rows.snapshot(connection):
            found: list[News] = list(rows.select_signals(connection, last_signal))
            told = dict(positions)
            for turn_id, position in positions.items():
                try:
                    in_log = _news_of(connection, turn_id, position)
                except (apsw.CorruptError, msgspec.MsgspecError):
                    # The turn is read then, and what is damaged costs this turn alone.
                    in_log = [Moved(turn_id)]
                found += in_log
                if in_log and isinstance(last := in_log[-1], Pushed):
                    told[turn_id] = last.first_seq + len(last.lines) - 1
            journaled = 0 if again else self._journaled
            for number, turn_id, first_seq, last_seq, lines in select_journal(connection, journaled):
                journaled = number
                if last_seq > told.get(turn_id, last_seq):
                    found.append(Pushed(turn_id, first_seq, lines.split(b"\n")))
        self._data_version, self._journaled = version, journaled
        return found


def _news_of(connection: apsw.Connection, turn_id: str, after: int) -> list[Moved | Pushed]:
    """The commits of one turn after seq ``after``. Pictures are not pushed: the turn is read."""
    row = connection.execute("SELECT last_seq, status FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
    # The log of a running turn may end before what has been told of it, because the rest was in the journal.
    if row is None or (row[0] < after and row[1] != "running"):
        return [Moved(turn_id)]
    if row[0] <= after:
        return []
    found: list[Moved | Pushed] = []
    for segment in select_segments(connection, turn_id, after):
        split = segment.lines.split(b"\n")
        if any(image_of(line) for line in split):
            return [Moved(turn_id)]
        known = max(0, after + 1 - segment.first_seq)
        found.append(Pushed(turn_id, segment.first_seq + known, split[known:]))
    return found
