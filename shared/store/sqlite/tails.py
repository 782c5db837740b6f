"""The events of this process's turns that are in the journal and not in their logs yet, and when they are moved there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from shared.store.protocol import Append
from shared.store.record import Record
from shared.store.sqlite.journal import Row, rows_of

# An entry with more events or bytes than this goes to its log at once, and so does the next entry of a tail with so many events.
_MAX_EVENTS = 16
_MAX_BYTES = 2048
_MAX_TAIL_EVENTS = 256
_MOVE_AFTER_MS = 1000.0
_TRIM_EVERY_MS = 100.0
# So many moves of one tail may meet a damaged page, one a second. By then the turn is ended, here or by another process.
_MAX_TRIES = 30
# With one commit the events of so many turns are moved, and of one more for so many turns in the journal.
_MOVED_AT_ONCE = 2
_TURNS_PER_MOVE = 64


@dataclass(slots=True)
class Tail:
    """The events of one turn that are in the journal: in the rows from ``number`` on, since ``since_ms``.

    ``last_seq`` is that of the newest event of the turn, which is in the log where there are no ``records``. ``unsure``: an
    attempt has failed, so the store may have more than this. ``tries`` counts the moves that met a damaged page.
    """

    owner: str
    last_seq: int
    records: list[Record] = field(default_factory=list)
    number: int = 0
    since_ms: float = 0.0
    unsure: bool = False
    tries: int = 0


class Move:
    """The events of one turn that are to be moved now; ``rows`` is None where the journal has to be read for them."""

    __slots__ = ("last_seq", "owner", "rows", "turn_id")

    def __init__(self, turn_id: str, tail: Tail) -> None:
        self.turn_id = turn_id
        self.owner = tail.owner
        self.last_seq = tail.last_seq
        self.rows: list[Row] | None = None if tail.unsure else rows_of(tail.records)


class Tails:
    """The tails of the running turns, by turn.

    ``now_ms`` is the time of the commit that is planned or done, ``newest_number`` this process's newest row in the journal.
    """

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._known: dict[str, Tail] = {}
        # The tails that have a row in the journal, in the order in which they are to be moved.
        self._journaled: dict[str, Tail] = {}
        self.newest_number = 0
        self._trimmed_ms = 0.0

    def begin(self, turn_id: str, owner: str) -> None:
        """A turn was recorded, with its first event in its log."""
        self._known[turn_id] = Tail(owner, 1)

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
        if records[0].seq != tail.last_seq + 1 or len(records) > _MAX_EVENTS or len(tail.records) >= _MAX_TAIL_EVENTS:
            return False
        return sum([len(record.stored) for record in records]) <= _MAX_BYTES

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
        before_ms = self.now_ms - _MOVE_AFTER_MS
        for turn_id, tail in self._journaled.items():
            if tail.since_ms > before_ms or len(moves) == most:
                break
            if turn_id not in besides:
                moves.append(Move(turn_id, tail))
        return moves

    def all(self) -> list[Move]:
        """Moves of all tails."""
        return [Move(turn_id, tail) for turn_id, tail in self._journaled.items()]

    def trim_before(self) -> int:
        """From time to time the number of the first row that is needed, or of the newest row; otherwise 0.

        It is 0 also while a tail is unsure.
        """
        if self.now_ms - self._trimmed_ms < _TRIM_EVERY_MS:
            return 0
        self._trimmed_ms = self.now_ms
        return min([tail.number for tail in self._journaled.values()], default=self.newest_number)

    def added(self, entry: Append, number: int) -> None:
        """An entry stands in a row of the journal now."""
        tail = self._known.get(entry.turn_id)
        if tail is None:
            # It was forgotten with the same commit, so its next entry goes to the log, with what is in the journal.
            tail = self._known[entry.turn_id] = Tail(entry.owner, 0, unsure=True)
        if not tail.records:
            tail.number, tail.since_ms = number, self.now_ms
            self._journaled[entry.turn_id] = tail
        tail.records += entry.records
        tail.last_seq = entry.records[-1].seq
        self.newest_number = number

    def moved(self, turn_id: str, owner: str, last_seq: int, *, ended: bool = False) -> None:
        """The log of a turn has all events up to ``last_seq`` now."""
        self.forget(turn_id)
        if not ended:
            self._known[turn_id] = Tail(owner, last_seq)

    def forget(self, turn_id: str) -> None:
        """This process does not own a turn any more, or does not know how far its log goes: its next entry finds that out."""
        self._known.pop(turn_id, None)
        self._journaled.pop(turn_id, None)

    def move_done(self, move: Move, owned: bool | None, error: Exception | None) -> None:
        """What became of a move. One that met a damaged page is tried again a second later."""
        tail = self._journaled.get(move.turn_id)
        if error is not None and tail is not None and tail.tries < _MAX_TRIES:
            tail.tries, tail.since_ms = tail.tries + 1, self.now_ms
            self._journaled[move.turn_id] = self._journaled.pop(move.turn_id)
        elif error is None and owned and move.rows is not None:
            self.moved(move.turn_id, move.owner, move.last_seq)
        else:
            self.forget(move.turn_id)

    def failed(self, turn_ids: Iterable[str]) -> None:
        """Nobody knows what the store has of these turns. Until that is known, no row of the journal is dropped."""
        unsure = {turn_id: tail for turn_id in turn_ids if (tail := self._known.get(turn_id)) is not None}
        for tail in unsure.values():
            tail.unsure, tail.number, tail.since_ms = True, 0, self.now_ms
        self._journaled = unsure | {turn_id: tail for turn_id, tail in self._journaled.items() if turn_id not in unsure}
