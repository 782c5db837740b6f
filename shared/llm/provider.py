"""A provider's errors in this project's own words.

A provider's own text never reaches a client or a log: the HTTP status and the machine-readable codes of an error choose a row of
``shared/errors.py``, and the message is written here. It says which setting to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from shared.errors import ChatError, ErrorCode
from shared.llm.checked import NotAnAnswer

_BY_CODE: dict[str, ErrorCode] = {
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
_BY_STATUS: dict[int, ErrorCode] = {
    401: "model_unauthorized",
    402: "model_unauthorized",
    403: "model_unauthorized",
    404: "model_not_found",
    405: "model_not_found",
    408: "model_timeout",
    429: "model_rate_limited",
    504: "model_timeout",
    524: "model_timeout",
}
# Words that name a kind of error; they count where no status came, as in an error inside a stream.
_BY_KIND: dict[str, ErrorCode] = {
    "authentication_error": "model_unauthorized",
    "permission_error": "model_unauthorized",
    "UNAUTHENTICATED": "model_unauthorized",
    "PERMISSION_DENIED": "model_unauthorized",
    "not_found_error": "model_not_found",
    "NOT_FOUND": "model_not_found",
    "rate_limit_error": "model_rate_limited",
    "RESOURCE_EXHAUSTED": "model_rate_limited",
    "DEADLINE_EXCEEDED": "model_timeout",
    "invalid_request_error": "invalid_request",
    "INVALID_ARGUMENT": "invalid_request",
}
_TOO_LONG = frozenset({"context_length_exceeded", "413"})


@dataclass(frozen=True, slots=True)
class Provider:
    """How messages name a provider, and the settings that they tell an operator to check.

    ``name`` is written as inside a sentence. ``address_hint`` says what the address in ``address_setting`` looks like.
    """

    name: str
    key_setting: str
    model_setting: str
    address_setting: str
    address_hint: str

    def sentence(self, rest: str) -> str:
        """A sentence that begins with the provider's name."""
        return f"{self.name[:1].upper()}{self.name[1:]} {rest}"


class AnswerBroken(ChatError):
    """An answer began (HTTP 200) and failed. The provider may charge for it, so it is not asked for again."""

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = "model_unavailable",
        retry_after_s: float | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(code, message, retry_after_s=retry_after_s, cause=cause)

    @classmethod
    def by(cls, error: ChatError) -> AnswerBroken:
        """The same error, for an answer that had begun."""
        return cls(error.message, code=error.kind.code, retry_after_s=error.retry_after_s, cause=error.cause)


def provider_error(
    provider: Provider,
    status: int | None,
    codes: Iterable[str] = (),
    *,
    model: str,
    retry_after_s: float | None = None,
    wrong_address: bool = False,
    cause: str | None = None,
) -> ChatError:
    """The ChatError for a provider's error.

    ``status`` is its HTTP status (None: inside a stream), ``codes`` are its machine-readable words, the most specific first.
    ``wrong_address``: the answer is not of the provider's API, so the base URL is probably wrong.
    """
    codes = list(codes)
    code = _row(status, codes)
    if status is not None and 300 <= status < 400:
        words = f"answered with a redirect (HTTP {status}); check {provider.address_setting}: {provider.address_hint}."
    elif code == "model_not_found" and (wrong_address or status == 405):
        words = (
            f"has nothing at this address (HTTP {status}); check {provider.address_setting}: {provider.address_hint}."
        )
    elif code == "invalid_request" and _TOO_LONG.intersection((*codes, str(status))):
        words = "refused the conversation as too long; start a new session, or set a lower MAX_CONTEXT_CHARS."
    else:
        words = _words(provider, code, status, model)
    return ChatError(code, provider.sentence(words), retry_after_s=retry_after_s, cause=cause)


def _row(status: int | None, codes: list[str]) -> ErrorCode:
    for code in codes:
        if code in _BY_CODE:
            return _BY_CODE[code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status is not None and 400 <= status < 500:
        return "invalid_request"
    return next((_BY_KIND[code] for code in codes if code in _BY_KIND), "model_unavailable")


def _words(provider: Provider, code: ErrorCode, status: int | None, model: str) -> str:
    http = f" (HTTP {status})" if status is not None else ""
    words: dict[ErrorCode, str] = {
        "model_unauthorized": f"refused this server's key or account{http}; check {provider.key_setting}.",
        "model_not_found": f"does not serve {model[:80]!r}; set {provider.model_setting} to a model that it serves.",
        "model_timeout": f"took too long{http}; try again.",
        "model_rate_limited": "is limiting this server's requests; try again later.",
        "invalid_request": f"refused the request as invalid{http}; docs/models.md says which settings a server needs.",
        "content_refused": "refused this content (safety); ask in other words.",
    }
    return words.get(code, f"failed to answer{http}; try again.")


def broken_off(provider: Provider, cause: str | None = None) -> AnswerBroken:
    """The error for an answer that ended, or whose connection broke, before its finish reason."""
    return AnswerBroken(f"The answer of {provider.name} broke off; try again.", cause=cause)


def unreadable(provider: Provider, error: NotAnAnswer) -> AnswerBroken:
    """The error for an answer that is not of the provider's API."""
    if error.web_page:
        words = f"answered with a web page; check {provider.address_setting}: {provider.address_hint}."
        return AnswerBroken(provider.sentence(words), cause=f"NotAnAnswer: {error}")
    return AnswerBroken(
        provider.sentence(
            f"sent an answer that cannot be read; try again, and check {provider.model_setting} if it stays so."
        ),
        cause=f"NotAnAnswer: {error}",
    )


def is_specific(codes: Iterable[str]) -> bool:
    """Whether one of a provider's words names a row of the error table by itself."""
    return any(code in _BY_CODE for code in codes)


def error_codes(error: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The machine-readable words of a provider's error object under these names."""
    return [str(error[name]) for name in names if isinstance(error.get(name), str | int)]


def error_status(value: Any) -> int | None:
    """An HTTP error status that a provider gives as a number or as its digits; None for any other value."""
    digits = str(value)
    return int(digits) if digits in _STATUSES else None


def retry_after_s(value: str) -> float | None:
    """The seconds that ``Retry-After`` asks for, as a number or as a date (RFC 9110, section 10.2.3); None where it is neither."""
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


_STATUSES = frozenset(map(str, range(400, 600)))
