"""A provider's errors in this project's own words.

A provider's own text never reaches a client or a log: the HTTP status and the machine-readable codes of an error choose a row of
``shared/errors.py``, and the message is written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import ChatError, ErrorCode

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
class Provider:
    """How messages name a provider, and the settings that they tell an operator to check."""

    name: str
    key_setting: str
    model_setting: str


def provider_error(
    provider: Provider,
    status: int | None,
    codes: Iterable[str] = (),
    *,
    model: str,
    retry_after_s: float | None = None,
) -> ChatError:
    """The ChatError for a provider's HTTP status (None: no answer came) and the machine-readable codes of its error."""
    name = provider.name
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
        "model_unauthorized": f"{name} refused this server's key or account; check {provider.key_setting}.",
        "model_not_found": f"{name} does not serve {model[:80]!r}; set {provider.model_setting} to a model that it serves.",
        "model_timeout": f"{name} took too long.",
        "model_rate_limited": f"{name} is limiting this server's requests; try again later.",
        "invalid_request": f"{name} refused the request as invalid; it may be too long for the model.",
        "content_refused": f"{name} refused this content (safety).",
        "model_unavailable": f"{name} failed to answer.",
    }
    return ChatError(code, words[code], retry_after_s=retry_after_s)


def broken_off(provider: Provider) -> ChatError:
    """The ChatError for an answer that ended, or whose connection broke, before its finish reason."""
    return ChatError("model_unavailable", f"The answer of {provider.name} broke off.")
