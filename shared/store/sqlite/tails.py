"""The events of this process's turns that are in the journal and not in their logs yet, and when they are moved there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from shared.store.protocol import Append
from shared.store.record import Record
from shared.store.sqlite.journal import Row, rows_of

# An entry with more events or bytes than this goes to its log at once, and so does one that makes a tail longer than this.
_MAX_EVENTS = 16
_MAX_BYTES = 2048
_MAX_TAIL = 256
_MOVE_AFTER_S = 1.0
_TRIM_EVERY_S = 0.1
# With one commit the events of so many turns are moved, and of one more for so many turns in the journal.
_MOVED_AT_ONCE = 2
_TURNS_PER_MOVE = 64


@dataclass(slots=True)
class Tail:
    """The events of one turn that are in the journal: in the rows from ``number`` on, since ``since`` (time.monotonic()).

    ``moved_seq`` is the last seq in the log, ``last_seq`` that of the newest event. ``unsure``: an attempt has failed, so the
    store may have more than these events.
    """

    owner: str
    moved_seq: int
    last_seq: int
    records: list[Record] = field(default_factory=list)
    number: int = 0
    since: float = 0.0
    unsure: bool = False


class Move:
    """The events of one turn that are to be moved now; ``rows`` is None where the journal has to be read for them."""

    __slots__ = ("last_seq", "owner", "rows", "turn_id")

    def __init__(self, turn_id: str, tail: Tail) -> None:
        self.turn_id = turn_id
        self.owner = tail.owner
        self.last_seq = tail.last_seq
        self.rows: list[Row] | None = None if tail.unsure else rows_of(tail.records)


class Tails:
    """The tails of the running turns, by turn. ``writer`` marks the rows of this process in the journal, ``newest`` is the last."""

    def __init__(self) -> None:
        self.writer = secrets.randbits(62)
        self._known: dict[str, Tail] = {}
        # Those that have a row in the journal, the oldest first.
        self._journaled: dict[str, Tail] = {}
        self.newest = 0
        self._trimmed_at = 0.0

    def begin(self, turn_id: str, owner: str) -> None:
        """A turn was recorded, with its first event in its log."""
        self._known[turn_id] = Tail(owner, 1, 1)

    def keep(self, turn_ids: Collection[str]) -> None:
        """Forget the turns that are not among these and have nothing to be moved."""
        for turn_id in self._known.keys() - self._journaled.keys() - set(turn_ids):
            del self._known[turn_id]

    def last_seq(self, turn_id: str) -> int:
        """The seq of the newest event of a turn, as far as this process knows; 0 for the turn of another process."""
        tail = self._known.get(turn_id)
        return tail.last_seq if tail is not None else 0

    def takes(self, entry: Append) -> bool:
        """Whether an entry is added to the journal: it is small, and follows the last event of a turn that goes on."""
        tail = self._known.get(entry.turn_id)
        if tail is None or tail.unsure or entry.end is not None or entry.images or entry.owner != tail.owner:
            return False
        records = entry.records
        if records[0].seq != tail.last_seq + 1 or len(records) > _MAX_EVENTS or len(tail.records) >= _MAX_TAIL:
            return False
        size = len(records[0].stored) if len(records) == 1 else sum([len(record.stored) for record in records])
        return size <= _MAX_BYTES

    def rows_before(self, entry: Append) -> list[Row] | None:
        """What stands in the journal before an entry that goes to the log; None where the journal has to be read for it."""
        tail = self._known.get(entry.turn_id)
        if tail is None or tail.unsure or entry.owner != tail.owner or entry.records[0].seq != tail.last_seq + 1:
            return None
        return rows_of(tail.records)

    def due(self, besides: Collection[str]) -> list[Move]:
        """The oldest tails, if it is time to move them."""
        moves: list[Move] = []
        most = _MOVED_AT_ONCE + len(self._journaled) // _TURNS_PER_MOVE
        before = time.monotonic() - _MOVE_AFTER_S
        for turn_id, tail in self._journaled.items():
            if tail.since > before or len(moves) == most:
                break
            if turn_id not in besides:
                moves.append(Move(turn_id, tail))
        return moves

    def trim_before(self) -> int:
        """From time to time, the number of the first row that is needed; 0 in between."""
        now = time.monotonic()
        if now - self._trimmed_at < _TRIM_EVERY_S:
            return 0
        self._trimmed_at = now
        return next(iter(self._journaled.values())).number if self._journaled else self.newest

    def added(self, entry: Append, number: int) -> None:
        """An entry stands in a row of the journal now."""
        tail = self._known.get(entry.turn_id)
        if tail is None:
            # It was forgotten with the same commit, so its next entry goes to the log, with what is in the journal.
            tail = self._known[entry.turn_id] = Tail(entry.owner, 0, 0, unsure=True)
        if not tail.records:
            tail.number, tail.since = number, time.monotonic()
            self._journaled[entry.turn_id] = tail
        tail.records += entry.records
        tail.last_seq = entry.records[-1].seq
        self.newest = number

    def moved(self, turn_id: str, owner: str, last_seq: int, *, ended: bool = False) -> None:
        """The log of a turn has all events up to ``last_seq`` now."""
        self.forget(turn_id)
        if not ended:
            self._known[turn_id] = Tail(owner, last_seq, last_seq)

    def forget(self, turn_id: str) -> None:
        """This process does not own a turn any more."""
        self._known.pop(turn_id, None)
        self._journaled.pop(turn_id, None)

    def move_done(self, move: Move, owned: bool | None, error: Exception | None) -> None:
        """What became of a move.

        A tail whose log is damaged is moved later. Nobody can read that log, so the tail's rows in the journal may be dropped.
        """
        if error is not None:
            tail = self._journaled.pop(move.turn_id)
            tail.since = time.monotonic()
            self._journaled[move.turn_id] = tail
        elif owned and move.rows is not None:
            self.moved(move.turn_id, move.owner, move.last_seq)
        else:
            # Its owner is another process, or nobody here knows how far its log goes: the next entry finds that out.
            self.forget(move.turn_id)

    def failed(self, turn_ids: Iterable[str]) -> None:
        """Nobody knows what the store has of these turns. Until that is known, no row of the journal is dropped."""
        for turn_id in turn_ids:
            tail = self._known.get(turn_id)
            if tail is not None:
                tail.unsure, tail.number, tail.since = True, 0, time.monotonic()
                self._journaled.pop(turn_id, None)
                self._journaled = {turn_id: tail, **self._journaled}
