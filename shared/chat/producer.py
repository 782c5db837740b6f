"""Producing: a model's answer becomes the events of one turn, and exactly one terminal event ends them."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from shared.chat.checks import parse_size
from shared.chat.chunk_texts import ChunkTexts
from shared.chat.committer import Committer
from shared.chat.dependencies import Dependencies
from shared.chat.running_turn import RunningTurn
from shared.errors import ChatError
from shared.events import (
    IMAGE_CHUNK_BYTES,
    TERMINAL_STATUS,
    Chunk,
    FinishReason,
    ImageChunk,
    ImageCompleted,
    ImageStarted,
    Thinking,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
    TurnInterrupted,
    event_type,
    now_ms,
)
from shared.images.model import ImagePart
from shared.llm.model import ContextMessage
from shared.reply import text_sha256
from shared.session import short, short_turn
from shared.store.protocol import End, Started, StoredImage

# A model that never waits would keep the event loop busy: after so many uncommitted events its producer waits for a
# commit.
_MAX_UNCOMMITTED = 256


class Producer:
    """Reads a turn's model and appends the turn's events."""

    def __init__(self, dependencies: Dependencies, committer: Committer) -> None:
        self._dependencies = dependencies
        self._committer = committer

    async def run(self, turn: RunningTurn, started: Started) -> ChatError | None:
        """Run one turn to its terminal event. Returns the error with which the turn failed, or None.

        A turn that is fenced gets no terminal event here, because the store refuses it: another process ends the turn.
        """
        finish: FinishReason = "other"
        error: ChatError | None = None
        turn.model_asked = True
        try:
            if turn.stopped is None:
                self._dependencies.trace_model(turn.turn_id, "model asked")
                finish = await self._append_answer(turn, started)
        except asyncio.CancelledError:
            if turn.stopped is None:
                raise
        except ChatError as refusal:
            # A traceback refers to the frames of this task, and the frames refer to the log. Both would stay in memory
            # until the garbage collector runs.
            error = refusal.with_traceback(None)
        except Exception as failure:
            # Whatever a provider's library raises, the turn gets its terminal event.
            if self._dependencies.trace.text:
                self._dependencies.logger.exception("model failed", turn=turn.turn_id)
            else:
                self._dependencies.logger.error("model failed", turn=turn.turn_id, cause=type(failure).__name__)
            error = ChatError(
                "internal", "The model failed in an unexpected way; try again. The server's log names the cause."
            )
        outcome = turn.stopped or (error.code if error else finish)
        self._dependencies.trace_model(turn.turn_id, "model done", how=outcome)
        if not turn.fenced:
            event = _terminal_event(turn, finish, error)
            turn.end = End(
                status=TERMINAL_STATUS[event_type(event)],
                text="".join(turn.texts),
                image_id=turn.image.image_id if turn.image else None,
                ended_at=event.at,
            )
            self._committer.append(turn, event)
            await turn.committed()
        return error

    def _append_answer(self, turn: RunningTurn, started: Started) -> Coroutine[Any, Any, FinishReason]:
        """Append the events of a turn as its model gives them. Returns why the model ended."""
        request = turn.request
        if request.kind == "chat":
            return self._append_reply(turn, (*started.context, ContextMessage("user", request.text)), started.model)
        assert request.size is not None
        return self._append_images(turn, request.text, request.size)

    async def _append_reply(self, turn: RunningTurn, history: tuple[ContextMessage, ...], model: str) -> FinishReason:
        stream = self._dependencies.chat_model.stream(history, model)
        texts = ChunkTexts()
        finish: FinishReason = "other"
        try:
            async with aclosing(stream):
                async for delta in stream:
                    if delta.usage is not None:
                        turn.usage = delta.usage
                    if delta.thought and not turn.thinking and not turn.texts:
                        turn.thinking = True
                        self._committer.append(turn, Thinking(turn_id=turn.turn_id, seq=turn.seq + 1, at=now_ms()))
                    if delta.quiet_s:
                        turn.turn_log.stay_quiet(delta.quiet_s)
                    if delta.drop:
                        turn.turn_log.drop()
                    for text in texts.add(delta.text):
                        self._append_chunk(turn, text)
                        if len(turn.uncommitted) >= _MAX_UNCOMMITTED:
                            await turn.committed()
                    if turn.fenced:
                        break
                    finish = delta.finish_reason or finish
        finally:
            if not turn.fenced:
                for text in texts.rest():
                    self._append_chunk(turn, text)
        return finish

    def _append_chunk(self, turn: RunningTurn, text: str) -> None:
        if not turn.texts:
            ids = {"session": short(turn.session_id), "turn": short_turn(turn.turn_id)}
            self._dependencies.logger.info("first token", **ids, ms=turn.elapsed_ms)
        turn.texts.append(text)
        self._committer.append(turn, Chunk(turn_id=turn.turn_id, seq=turn.seq + 1, at=now_ms(), text=text))

    async def _append_images(self, turn: RunningTurn, prompt: str, size: str) -> FinishReason:
        width, height = parse_size(size, self._dependencies.settings.max_image_pixels)
        stream = self._dependencies.image_model.generate(prompt, width, height)
        async with aclosing(stream):
            async for part in stream:
                if part.usage is not None:
                    turn.usage = part.usage
                await self._append_image(turn, part)
                if turn.fenced or not part.preview:
                    return "stop"
        raise ChatError("model_unavailable", "The image model ended without a picture; try again.")

    async def _append_image(self, turn: RunningTurn, part: ImagePart) -> None:
        """Append a preview, or the final picture with ``image_completed`` after its pieces."""
        turn_id, at = turn.turn_id, now_ms()
        image = StoredImage(
            image_id=str(uuid.uuid4()),
            turn_id=turn_id,
            mime_type=part.mime_type,
            width=part.width,
            height=part.height,
            sha256=hashlib.sha256(part.data).hexdigest(),
            preview=part.preview,
            revised_prompt=part.revised_prompt,
            data=part.data,
        )
        image_id = image.image_id
        turn.images.append(image)
        self._committer.append(
            turn,
            ImageStarted(
                turn_id=turn_id,
                seq=turn.seq + 1,
                at=at,
                image_id=image_id,
                mime_type=part.mime_type,
                width=part.width,
                height=part.height,
                size_bytes=len(part.data),
                preview=part.preview,
            ),
        )
        for offset in range(0, len(part.data), IMAGE_CHUNK_BYTES):
            data = part.data[offset : offset + IMAGE_CHUNK_BYTES]
            self._committer.append(
                turn, ImageChunk(turn_id=turn_id, seq=turn.seq + 1, at=at, image_id=image_id, offset=offset, data=data)
            )
        if not part.preview:
            turn.image = image
            self._committer.append(
                turn,
                ImageCompleted(
                    turn_id=turn_id,
                    seq=turn.seq + 1,
                    at=at,
                    image_id=image_id,
                    sha256=image.sha256,
                    revised_prompt=part.revised_prompt,
                ),
            )
        what = "preview" if part.preview else "picture"
        self._dependencies.logger.info(what, turn=short_turn(turn_id), bytes=len(part.data), ms=turn.elapsed_ms)
        await turn.committed()


def _terminal_event(
    turn: RunningTurn, finish: FinishReason, error: ChatError | None
) -> TurnCompleted | TurnFailed | TurnCancelled | TurnInterrupted:
    """The terminal event that says how the turn ended."""
    turn_id, seq, at, usage, chunks = turn.turn_id, turn.seq + 1, now_ms(), turn.usage, len(turn.texts)
    sha256: str | None = None
    if turn.request.kind == "chat":
        sha256 = text_sha256("".join(turn.texts))
    elif turn.image is not None:
        sha256 = turn.image.sha256
    if turn.stopped == "cancelled":
        return TurnCancelled(turn_id=turn_id, seq=seq, at=at, usage=usage, chunks=chunks, sha256=sha256)
    if turn.stopped is not None:
        return TurnInterrupted(turn_id=turn_id, seq=seq, at=at, chunks=chunks, sha256=sha256)
    if error is not None:
        return TurnFailed(
            turn_id=turn_id,
            seq=seq,
            at=at,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            usage=usage,
        )
    return TurnCompleted(
        turn_id=turn_id,
        seq=seq,
        at=at,
        finish_reason=finish,
        usage=usage,
        chunks=chunks,
        message_count=None if turn.message_count is None else turn.message_count + 1,
        elapsed_ms=turn.elapsed_ms,
        sha256=sha256 or text_sha256(""),
    )
