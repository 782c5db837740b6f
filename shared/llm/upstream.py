"""What every provider needs around its SDK: patience with limits, retries before the first token only, and our own words.

Nothing that a provider says in an error reaches a client or a log: its HTTP status and its machine-readable codes choose a
row of ``shared/errors.py``, and the words are written here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from shared.errors import ChatError, ErrorCode
from shared.llm.model import Delta

if TYPE_CHECKING:
    from shared.config import Settings

LONGEST_WAIT_S = 4.0
_BACKOFF_S = 0.25
_RETRIED = frozenset({"model_unavailable", "model_rate_limited"})
_UNAUTHORIZED = frozenset({401, 402, 403})
_TIMED_OUT = frozenset({408, 504, 524})
_CODES: dict[str, ErrorCode] = {
    "API_KEY_INVALID": "model_unauthorized",
    "API_KEY_EXPIRED": "model_unauthorized",
    "invalid_api_key": "model_unauthorized",
    "insufficient_quota": "model_unauthorized",
    "billing_hard_limit_reached": "model_unauthorized",
    "FAILED_PRECONDITION": "model_unauthorized",
    "model_not_found": "model_not_found",
    "content_policy_violation": "content_refused",
    "moderation_blocked": "content_refused",
    "content_filter": "content_refused",
    "rate_limit_exceeded": "model_rate_limited",
    "context_length_exceeded": "invalid_request",
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider as our messages name it, and the settings that an operator would change."""

    name: str
    key_setting: str
    model_setting: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a provider may take, in seconds; ``first_s`` is until the first text, retries included."""

    connect_s: float
    first_s: float
    between_s: float
    total_s: float
    retries: int

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        """The chat's limits, from the ``PROVIDER_*`` settings."""
        return cls(
            settings.provider_connect_timeout_s,
            settings.provider_first_token_timeout_s,
            settings.provider_between_tokens_timeout_s,
            settings.provider_total_timeout_s,
            settings.provider_retries,
        )


def refused(
    upstream: Upstream,
    status: int | None,
    codes: Iterable[str] = (),
    *,
    model: str,
    retry_after_s: float | None = None,
) -> ChatError:
    """The table's row for a provider's HTTP status (None: no answer) and its machine-readable codes."""
    name = upstream.name
    code = next((_CODES[code] for code in codes if code in _CODES), None)
    if code is None and status is not None:
        if status in _UNAUTHORIZED:
            code = "model_unauthorized"
        elif status == 404:
            code = "model_not_found"
        elif status in _TIMED_OUT:
            code = "model_timeout"
        elif status == 429:
            code = "model_rate_limited"
        elif 400 <= status < 500:
            code = "invalid_request"
    code = code or "model_unavailable"
    words: dict[ErrorCode, str] = {
        "model_unauthorized": f"{name} refused this server's key or account; check {upstream.key_setting}.",
        "model_not_found": f"{name} does not serve {model[:80]!r}; set {upstream.model_setting} to a model that it serves.",
        "model_timeout": f"{name} took too long.",
        "model_rate_limited": f"{name} is limiting this server's requests; try again later.",
        "invalid_request": f"{name} refused the request as invalid; it may be too long for the model.",
        "content_refused": f"{name} refused this content (safety).",
        "model_unavailable": f"{name} failed to answer.",
    }
    return ChatError(code, words[code], retry_after_s=retry_after_s)


def broken_off(upstream: Upstream) -> ChatError:
    """The answer ended, or its line broke, before the model said that it was done."""
    return ChatError("model_unavailable", f"The answer of {upstream.name} broke off.")


async def patient(
    upstream: Upstream, patience: Patience, attempt: Callable[[], AsyncGenerator[Delta, None]]
) -> AsyncGenerator[Delta, None]:
    """One answer out of one or more attempts; an attempt is made again only while no text was heard, never inside an answer.

    Raises ChatError ``model_timeout`` when the first text, the next frame or the whole answer takes too long, and what the
    last attempt raises. A limiter that names a wait longer than 4 s is not asked again.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    first_due, last_due = start + patience.first_s, start + patience.total_s
    heard = False
    for tries in count(1):
        async with aclosing(attempt()) as stream:
            try:
                while True:
                    due = min(last_due, clock() + patience.between_s if heard else first_due)
                    try:
                        async with asyncio.timeout_at(due):
                            delta = await anext(stream, None)
                    except TimeoutError:
                        raise _too_late(upstream, patience, heard, due >= last_due) from None
                    if delta is None:
                        return
                    heard = heard or bool(delta.text)
                    yield delta
            except ChatError as error:
                wait_s = max(_BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1), error.retry_after_s or 0)
                late = wait_s > LONGEST_WAIT_S or clock() + wait_s >= min(first_due, last_due)
                if heard or late or tries > patience.retries or error.code not in _RETRIED:
                    raise
        await asyncio.sleep(wait_s)


def _too_late(upstream: Upstream, patience: Patience, heard: bool, total: bool) -> ChatError:
    if total:
        return ChatError(
            "model_timeout", f"{upstream.name} took longer than {patience.total_s:g} s for the whole answer."
        )
    if heard:
        return ChatError(
            "model_timeout", f"{upstream.name} fell silent for {patience.between_s:g} s inside its answer."
        )
    return ChatError("model_timeout", f"{upstream.name} said nothing within {patience.first_s:g} s.")
