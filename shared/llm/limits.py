"""The time limits of a provider's answer, its end, and repeated attempts before it begins."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import count

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason, Usage
from shared.llm.model import Delta
from shared.llm.provider import AnswerBroken, Provider, broken_off

LONGEST_WAIT_S = 4.0
# After the finish reason only the usage can follow. The reader waits this long for it, if the connection stays open.
FINISH_GRACE_S = 1.5
_BACKOFF_S = 0.25
_RETRIED = frozenset({"model_unavailable", "model_rate_limited"})


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a provider may take, in seconds. ``first_s`` is the time to the first frame, all attempts together."""

    connect_s: float
    first_s: float
    between_s: float
    total_s: float
    retries: int

    @classmethod
    def from_settings(cls, settings: Settings) -> TimeLimits:
        """The limits of a chat, from the ``PROVIDER_*`` settings."""
        return cls(
            settings.provider_connect_timeout_s,
            settings.provider_first_frame_timeout_s,
            settings.provider_between_frames_timeout_s,
            settings.provider_total_timeout_s,
            settings.provider_retries,
        )


async def within_limits(
    provider: Provider, limits: TimeLimits, attempt: Callable[[], AsyncGenerator[Delta, None]]
) -> AsyncGenerator[Delta, None]:
    """One answer out of one or more attempts; its last delta has the finish reason.

    An attempt gives one delta for each frame of the provider, with or without text: any frame is a sign of life. It gives the
    finish reason as soon as the provider names it. An attempt is repeated only while the provider has not begun to answer
    (``AnswerBroken``), because it may charge for what it began. A provider that asks for a wait of more than 4 s is not asked
    again. Raises ChatError ``model_timeout`` when the first frame, the next frame or the whole answer takes too long, and the
    error of the last attempt.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    first_due, last_due = start + limits.first_s, start + limits.total_s
    for tries in count(1):
        answer = _Answer(first_due)
        async with aclosing(attempt()) as stream:
            try:
                while True:
                    try:
                        async with asyncio.timeout_at(min(answer.due, last_due)):
                            delta = await anext(stream, None)
                    except TimeoutError:
                        if answer.finish is None:
                            raise _too_late(provider, limits, answer.begun, clock() >= last_due) from None
                        delta = None
                    if delta is None:
                        break
                    yield answer.add(delta, clock(), limits.between_s)
            except ChatError as error:
                if answer.finish is None:
                    wait_s = max(_BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1), error.retry_after_s or 0)
                    late = wait_s > LONGEST_WAIT_S or clock() + wait_s >= min(first_due, last_due)
                    final = isinstance(error, AnswerBroken) or error.code not in _RETRIED
                    if final or late or tries > limits.retries:
                        raise
            else:
                if answer.finish is None:
                    raise broken_off(provider)
        if answer.finish is not None:
            yield Delta(finish_reason=answer.finish)
            return
        await asyncio.sleep(wait_s)


class _Answer:
    """The part of one attempt that has arrived; ``due`` is when the next frame is overdue, on the loop's clock."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.begun = False
        self.finish: FinishReason | None = None
        self._usage = Usage()

    def add(self, delta: Delta, now: float, between_s: float) -> Delta:
        """The delta for the reader: without its finish reason, with the counts of tokens that are known by now."""
        self.begun = True
        if self.finish is None and delta.finish_reason is None:
            self.due = now + between_s
        elif self.finish is None or delta.text:
            self.due = now + FINISH_GRACE_S
        if delta.finish_reason is None and delta.usage is None:
            return delta
        self.finish = delta.finish_reason or self.finish
        if delta.usage is not None:
            self._usage = Usage(
                self._usage.input_tokens if delta.usage.input_tokens is None else delta.usage.input_tokens,
                self._usage.output_tokens if delta.usage.output_tokens is None else delta.usage.output_tokens,
            )
        return replace(delta, finish_reason=None, usage=self._usage if delta.usage is not None else None)


def _too_late(provider: Provider, limits: TimeLimits, begun: bool, total: bool) -> ChatError:
    if total:
        words = (
            f"took longer than {limits.total_s:g} s for the whole answer; "
            "ask for a shorter one, or raise PROVIDER_TOTAL_TIMEOUT_S."
        )
    elif begun:
        words = (
            f"fell silent for {limits.between_s:g} s inside its answer; "
            "try again, or raise PROVIDER_BETWEEN_FRAMES_TIMEOUT_S."
        )
    else:
        words = f"said nothing within {limits.first_s:g} s; try again, or raise PROVIDER_FIRST_FRAME_TIMEOUT_S."
    return ChatError("model_timeout", provider.sentence(words))
