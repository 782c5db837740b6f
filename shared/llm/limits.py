"""The time limits of a provider's answer, and repeated attempts before its first text."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

from shared.config import Settings
from shared.errors import ChatError
from shared.llm.model import Delta
from shared.llm.provider import Provider

LONGEST_WAIT_S = 4.0
_BACKOFF_S = 0.25
_RETRIED = frozenset({"model_unavailable", "model_rate_limited"})


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a provider may take, in seconds. ``first_s`` is the time to the first text, all attempts together."""

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
    """One answer out of one or more attempts. An attempt is repeated only before the first text of the answer.

    Raises ChatError ``model_timeout`` when the first text, the next frame or the whole answer takes too long, and the error of
    the last attempt. A provider that asks for a wait of more than 4 s is not asked again.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    first_due, last_due = start + limits.first_s, start + limits.total_s
    spoken = False
    for tries in count(1):
        async with aclosing(attempt()) as stream:
            try:
                while True:
                    due = min(last_due, clock() + limits.between_s if spoken else first_due)
                    try:
                        async with asyncio.timeout_at(due):
                            delta = await anext(stream, None)
                    except TimeoutError:
                        raise _too_late(provider, limits, spoken, due >= last_due) from None
                    if delta is None:
                        return
                    spoken = spoken or bool(delta.text)
                    yield delta
            except ChatError as error:
                wait_s = max(_BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1), error.retry_after_s or 0)
                late = wait_s > LONGEST_WAIT_S or clock() + wait_s >= min(first_due, last_due)
                if spoken or late or tries > limits.retries or error.code not in _RETRIED:
                    raise
        await asyncio.sleep(wait_s)


def _too_late(provider: Provider, limits: TimeLimits, spoken: bool, total: bool) -> ChatError:
    if total:
        return ChatError(
            "model_timeout", f"{provider.name} took longer than {limits.total_s:g} s for the whole answer."
        )
    if spoken:
        return ChatError("model_timeout", f"{provider.name} fell silent for {limits.between_s:g} s inside its answer.")
    return ChatError("model_timeout", f"{provider.name} said nothing within {limits.first_s:g} s.")
