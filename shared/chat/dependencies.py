"""What the parts of one chat service share: the settings, the store, the models, and what this process keeps in memory."""

from __future__ import annotations

from dataclasses import dataclass

from shared.chat.counters import Counters
from shared.chat.members import Members
from shared.chat.readiness import Readiness
from shared.chat.turn_logs import TurnLogs
from shared.config import Settings
from shared.images.model import ImageModel
from shared.llm.model import ChatModel
from shared.logger import Logger, Trace
from shared.session import short_turn
from shared.store.protocol import Store
from shared.store.record import Record


@dataclass(frozen=True, slots=True)
class Dependencies:
    """One object for every part of a service; ``owner`` is the id of this process, which the store keeps with its turns."""

    settings: Settings
    store: Store
    chat_model: ChatModel
    image_model: ImageModel
    owner: str
    members: Members
    turn_logs: TurnLogs
    counters: Counters
    logger: Logger
    trace: Trace
    readiness: Readiness

    def trace_model(self, turn_id: str, what: str, **fields: str) -> None:
        """With ``--trace``: log a step of the model."""
        if self.trace.events:
            self.logger.info(what, turn=short_turn(turn_id), **fields)

    def trace_records(self, records: list[Record]) -> None:
        """With ``--trace``: log committed events; ``at`` is when each was appended, in epoch ms."""
        if not self.trace.events:
            return
        for record in records:
            fields = {"event_json": record.stored.decode()} if self.trace.text else {"bytes": len(record.stored)}
            self.logger.info(
                "event", turn=short_turn(record.turn_id), type=record.type, seq=record.seq, at=record.event.at, **fields
            )
