"""A state machine (Hypothesis) drives two services on one store, like two servers, and compares them with a small model.

Create, send, send again, read a part, drop, resume elsewhere, cancel, crash, clear, delete, in any order.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from shared.chat.service import ChatService
from shared.config import Settings
from shared.errors import ChatError
from shared.events import TERMINAL, TERMINAL_STATUS, AnyEvent, Chunk, TurnStarted, event_type
from shared.images.open import open_image_model
from shared.llm.model import ContextMessage
from shared.llm.offline_reply import reply_tokens
from shared.llm.open import open_chat_model
from shared.logger import Trace, open_logger
from shared.store.open import open_store

T = TypeVar("T")
LEASE_S = 0.5
ENDED_S = 10.0
PAIR = st.sampled_from((0, 1))


@dataclass
class Turn:
    """A turn in the model: its message, the history before it, and the events that were shown so far."""

    turn_id: str
    key: str
    asked: str
    session: Session
    history: list[ContextMessage]
    shown: list[AnyEvent] = field(default_factory=list)
    owner_crashed: bool = False

    @property
    def gone(self) -> bool:
        """Whether the turn does not exist, because it was refused or was deleted with its session."""
        return not self.turn_id or self.session.deleted

    @property
    def ended(self) -> str:
        """The status of the turn's terminal event; empty before that event was shown."""
        return (
            TERMINAL_STATUS[event_type(self.shown[-1])] if self.shown and isinstance(self.shown[-1], TERMINAL) else ""
        )

    @property
    def text(self) -> str:
        """The text that was shown."""
        return "".join(event.text for event in self.shown if isinstance(event, Chunk))


@dataclass
class Session:
    """A session and its turns since it was last cleared."""

    session_id: str
    turns: list[Turn] = field(default_factory=list)
    deleted: bool = False


class Process:
    """A service that can crash: its tasks stop where they are, and no turn gets a terminal event."""

    def __init__(self, config: Settings) -> None:
        self._store = open_store(config.store_url)
        self.service = ChatService(
            config,
            self._store,
            open_chat_model(config),
            open_image_model(config),
            logger=open_logger("machine", io.StringIO()),
            trace=Trace(),
            framework="machine",
        )

    async def start(self) -> None:
        """Start as ``ChatService.running`` does."""
        await self.service.begin()

    async def crash(self) -> None:
        """Stop without the clean-up of ``ChatService.running``. The store's threads may still finish a write."""
        await self.service.abandon()
        await self._store.close()


class ChatMachine(RuleBasedStateMachine):
    """Two services, any number of sessions."""

    sessions: Bundle[Session] = Bundle("sessions")
    turns: Bundle[Turn] = Bundle("turns")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="machine-")
        self.config = Settings(
            _env_file=None,
            genai_provider="offline",
            image_provider="offline",
            offline_tokens_per_s=1500,
            offline_first_token_ms=0,
            lease_s=LEASE_S,
            disconnect_grace_s=60,
            store_url=f"sqlite:///{Path(self.folder.name) / 'chat.db'}",
        )
        self.pair: list[Process] = []
        self.all_turns: list[Turn] = []
        self.count = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the machine's loop."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize()
    def start(self) -> None:
        self.pair = [Process(self.config), Process(self.config)]
        for process in self.pair:
            self.do(process.start())

    def teardown(self) -> None:
        for turn in self.all_turns:
            if not turn.session.deleted:
                self.do(self._read(turn, 0, None))
                self._check_end(turn)
        for process in self.pair:
            self.do(process.crash())
        self.loop.close()
        self.folder.cleanup()

    @rule(target=sessions, on=PAIR)
    def create(self, on: int) -> Session:
        return Session(self.do(self.pair[on].service.create_session()).session_id)

    @rule(target=turns, session=sessions, on=PAIR, tokens=st.sampled_from((1, 20, 150, 600)))
    def send(self, session: Session, on: int, tokens: int) -> Turn:
        self.count += 1
        asked, key = f"/tokens {tokens} message {self.count}", f"key {self.count}"
        service = self.pair[on].service
        # Hypothesis' choices may not depend on the speed of a turn, so a refused turn is kept as a turn, too.
        refused = Turn("", key, asked, session, [])
        if session.deleted:
            self._refused(service.start_chat(asked, session_id=session.session_id, request_id=key), "session_not_found")
            return refused
        running = bool(session.turns) and self._running(session.turns[-1])
        try:
            started = self.do(service.start_chat(asked, session_id=session.session_id, request_id=key))
        except ChatError as error:
            assert error.code == "turn_in_progress" and running, error.code
            return refused
        turn = Turn(started.turn_id, key, asked, session, self._history(session))
        session.turns.append(turn)
        self.all_turns.append(turn)
        return turn

    @rule(turn=turns, on=PAIR)
    def send_again(self, turn: Turn, on: int) -> None:
        """The same key gives the same turn, on either server, in any state of the turn."""
        if turn.gone:
            return
        service = self.pair[on].service
        again = self.do(service.start_chat(turn.asked, session_id=turn.session.session_id, request_id=turn.key))
        assert again.turn_id == turn.turn_id
        self._refused(
            service.start_chat("another", session_id=turn.session.session_id, request_id=turn.key),
            "idempotency_key_reused",
        )

    @rule(turn=turns, on=PAIR, events=st.sampled_from((1, 7, 100, None)))
    def read(self, turn: Turn, on: int, events: int | None) -> None:
        """Go on from the cursor, on either server, for ``events`` events or to the end; then drop the line."""
        if turn.gone:
            self._refused(self.pair[on].service.open(turn.turn_id, 0), "turn_not_found")
            return
        self.do(self._read(turn, on, events))
        if events is None:
            self._check_end(turn)

    @rule(turn=turns, on=PAIR)
    def read_too_far(self, turn: Turn, on: int) -> None:
        """Read beyond the log. For a running turn the server waits, and the turn may end meanwhile."""
        if not turn.gone:
            self._refused(self.pair[on].service.open(turn.turn_id, 10_000), "cursor_out_of_range", "cursor_lost")

    @rule(turn=turns, on=PAIR)
    def cancel(self, turn: Turn, on: int) -> None:
        if turn.gone:
            self._refused(self.pair[on].service.cancel_turn(turn.turn_id), "turn_not_found")
            return
        state = self.do(self.pair[on].service.cancel_turn(turn.turn_id))
        assert state.status in ("completed", "cancelled", "interrupted")
        assert state.status != "interrupted" or turn.owner_crashed
        self.do(self._read(turn, on, None))
        assert (turn.ended, turn.text) == (state.status, state.text)
        self._check_end(turn)
        again = self.do(self.pair[1 - on].service.cancel_turn(turn.turn_id))
        assert again == state

    @rule(on=PAIR)
    def crash(self, on: int) -> None:
        """One process dies, and another process is started in its place."""
        ours = set(self.pair[on].service._generation.running)
        for turn in self.all_turns:
            turn.owner_crashed |= turn.turn_id in ours
        self.do(self.pair[on].crash())
        self.pair[on] = Process(self.config)
        self.do(self.pair[on].start())

    @rule(session=sessions, on=PAIR)
    def clear(self, session: Session, on: int) -> None:
        if self._changed(session, self.pair[on].service.clear_session(session.session_id)):
            session.turns.clear()

    @rule(session=consumes(sessions), on=PAIR)
    def delete(self, session: Session, on: int) -> None:
        if self._changed(session, self.pair[on].service.delete_session(session.session_id)):
            session.deleted = True
            for process in self.pair:
                self._refused(process.service.get_session(session.session_id), "session_not_found")

    @invariant()
    def messages_are_what_was_said(self) -> None:
        for session in {id(turn.session): turn.session for turn in self.all_turns}.values():
            if session.deleted:
                continue
            said = self.do(self.pair[0].service.list_messages(session.session_id)).messages
            assert [m.text for m in said if m.role == "user"] == [turn.asked for turn in session.turns]
            replies = {m.turn_id: (m.text, m.status) for m in said if m.role == "model"}
            for turn in session.turns:
                if turn.ended:
                    shown = {turn.turn_id: (turn.text, turn.ended)} if turn.text else {}
                    assert replies.get(turn.turn_id) == shown.get(turn.turn_id)

    def _check_end(self, turn: Turn) -> None:
        ends = [event for event in turn.shown if isinstance(event, TERMINAL)]
        assert len(ends) == 1 and ends[0] is turn.shown[-1]
        assert ends[0].sha256 == hashlib.sha256(turn.text.encode()).hexdigest()  # type: ignore[union-attr]
        whole = "".join(reply_tokens([*turn.history, ContextMessage("user", turn.asked)]))
        assert turn.text == whole if turn.ended == "completed" else whole.startswith(turn.text)
        assert turn.ended != "interrupted" or turn.owner_crashed
        first = turn.shown[0]
        assert isinstance(first, TurnStarted)
        assert (first.input, first.request_id, first.context_messages) == (turn.asked, turn.key, len(turn.history))

    async def _read(self, turn: Turn, on: int, events: int | None) -> None:
        reader = await self.pair[on].service.open(turn.turn_id, len(turn.shown))
        wanted = len(turn.shown) + events if events is not None else None
        with reader:
            async for records in reader:
                for record in records:
                    assert record.seq == len(turn.shown) + 1
                    turn.shown.append(record.event)
                    if len(turn.shown) == wanted:
                        return

    def _history(self, session: Session) -> list[ContextMessage]:
        """The context of a turn that starts now: the turns before it have ended, or it would have been refused."""
        history: list[ContextMessage] = []
        for turn in session.turns:
            self.do(self._read(turn, 0, None))
            if turn.text:
                history += [ContextMessage("user", turn.asked), ContextMessage("model", turn.text)]
        return history

    def _running(self, turn: Turn) -> bool:
        return self.do(self.pair[0].service.get_turn(turn.turn_id)).status == "running"

    def _refused(self, work: Coroutine[Any, Any, Any], *codes: str) -> None:
        try:
            self.do(work)
        except ChatError as error:
            assert error.code in codes, f"{error.code}, not {codes}"
        else:
            raise AssertionError(f"not refused with {codes}")

    def _changed(self, session: Session, work: Coroutine[Any, Any, None]) -> bool:
        """Clear or delete a session. Returns False when the session is gone or a turn runs in it."""
        running = bool(session.turns) and not session.deleted and self._running(session.turns[-1])
        try:
            self.do(work)
        except ChatError as error:
            assert (
                error.code == "session_not_found" if session.deleted else error.code == "turn_in_progress" and running
            )
            return False
        assert not session.deleted
        return True


# ``make test`` runs a sample, which is always the same. ``make test-faults`` runs more, and others each time.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))
ChatMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 15,
    stateful_step_count=30,
    deadline=None,
    # A failure may depend on timing, so it is shown as it came and not shrunk.
    phases=(Phase.generate,),
    derandomize=not EXAMPLES,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestChat = ChatMachine.TestCase
