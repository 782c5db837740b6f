"""The beginning of a turn, the same in every store: the model, the first event, and the row as it is then."""

from __future__ import annotations

from shared.events import TurnStarted
from shared.llm.model import ContextMessage
from shared.store.protocol import NewTurn, Started, TurnRow
from shared.store.record import Record


def started_turn(
    new: NewTurn, session_id: str | None, session_model: str | None, context: tuple[ContextMessage, ...], at: float
) -> Started:
    """What ``start_turn`` answers for a new turn; the number of the session's messages is added by the store.

    ``session_model`` is the model with which the session was made, if any. A picture has the default model. ``at`` is epoch ms.
    """
    model = (new.model_id or session_model or new.default_model) if new.kind == "chat" else new.default_model
    first = TurnStarted(
        turn_id=new.turn_id,
        seq=1,
        at=at,
        session_id=session_id,
        kind=new.kind,
        input=new.input,
        model=model,
        context_messages=len(context),
        request_id=new.request_id,
    )
    row = TurnRow(
        turn_id=new.turn_id,
        kind=new.kind,
        session_id=session_id,
        status="running",
        last_seq=1,
        owner=new.owner,
        epoch=0,
        unread_ms=0.0,
        lease=0.0,
        ended_at=None,
        expired=False,
    )
    made_session = new.session_id is None and session_id is not None
    return Started(
        turn=row, joined=False, model=model, context=context, first=Record.of(first), made_session=made_session
    )
