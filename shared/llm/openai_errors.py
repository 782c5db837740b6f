"""Errors of OpenAI-compatible servers: which row of the error table each is, and which parameters a server refused.

The API's error object is ``{"error": {"message", "type", "param", "code"}}``. Servers send it without ``error``, with a string
for it, in a list of one, or inside a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from shared.errors import ChatError
from shared.llm.environment import cause_of, connection_words
from shared.llm.frames import Frame
from shared.llm.provider import (
    AnswerBroken,
    Provider,
    error_codes,
    error_status,
    is_specific,
    provider_error,
    retry_after_s,
)

if TYPE_CHECKING:
    import openai

_NEEDS_STREAM = frozenset({"stream_options", "partial_images"})


def error_frame(provider: Provider, frame: Frame, model: str) -> AnswerBroken | None:
    """The error that a frame is; None for any other frame."""
    error = _error_object(frame.value, frame.event)
    if error is None:
        return None
    status = error_status(error.get("code")) or error_status(error.get("status"))
    codes = error_codes(error, ("code", "type"))
    cause = f"an error inside the answer, status {status}"
    return AnswerBroken.by(provider_error(provider, status, codes, model=model, cause=cause))


def request_error(provider: Provider, error: Exception, model: str, base_url: str) -> ChatError:
    """The error for what the SDK raised before an answer began: by HTTP status, the error object's words, ``Retry-After``."""
    import httpx2
    import openai

    cause = cause_of(error)
    if isinstance(error, openai.APIStatusError):
        return _status_error(provider, error, model, base_url)
    reason = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(reason, httpx2.TimeoutException):
        return ChatError("model_timeout", connection_words(provider, error), cause=cause)
    if isinstance(reason, httpx2.ConnectError | httpx2.ProxyError | httpx2.UnsupportedProtocol):
        return ChatError("model_unavailable", connection_words(provider, error), cause=cause)
    if isinstance(reason, httpx2.TooManyRedirects):
        words = provider.sentence(f"redirects in a circle; check {provider.address_setting}: {provider.address_hint}.")
    elif isinstance(reason, httpx2.TransportError):
        words = provider.sentence("closed the connection before it answered; try again.")
    else:
        words = f"The request to {provider.name} could not be sent; the server's log names the cause."
    return ChatError("model_unavailable", words, cause=cause)


def _status_error(provider: Provider, error: openai.APIStatusError, model: str, base_url: str) -> ChatError:
    fields = _error_object(_json(error))
    codes = error_codes(fields or {}, ("code", "type"))
    # A wrong path gives a page that is not the API's, or the API's error without a code.
    unclear = fields is None or (not is_specific(codes[:1]) and not isinstance(fields.get("code"), str))
    return provider_error(
        provider,
        error.status_code,
        codes,
        model=model,
        retry_after_s=retry_after_s(error.response.headers.get("retry-after", "")),
        wrong_address=fields is None or (unclear and "/v1" not in base_url),
        cause=f"{cause_of(error)}, HTTP {error.status_code}",
    )


def refused_parameters(
    error: openai.BadRequestError | openai.UnprocessableEntityError, wanted: Collection[str], *, guess: bool
) -> frozenset[str]:
    """The parameters of a request that the server refused, of those in ``wanted``; none when it refused something else.

    ``guess``: an error that names no cause counts as a refusal of all parameters that a strict server may not know.
    """
    fields = _error_object(_json(error)) or {}
    param = fields.get("param")
    refused = {name for name in wanted if re.search(rf"\b{name}\b", error.response.text)}
    if isinstance(param, str) and param:
        refused = {param}.intersection(wanted)
    elif not refused and guess and not is_specific(error_codes(fields, ("code", "type"))):
        refused = {"stream_options"}.intersection(wanted) or set(wanted)
    if "stream_options" in refused:
        refused = {"stream_options"}
    if "stream" in refused:
        refused |= _NEEDS_STREAM.intersection(wanted)
    return frozenset(refused)


def _json(error: openai.APIStatusError) -> Any:
    try:
        return json.loads(error.response.text)
    except (ValueError, RecursionError):
        return None


def _error_object(value: Any, event: str = "") -> dict[str, Any] | None:
    """The fields of the API's error object in ``value``; None where there is none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if error:
        return error if isinstance(error, dict) else {}
    flat = value.get("object") == "error" or value.get("type") == "error" or event == "error"
    if flat or ("choices" not in value and "message" in value and ("code" in value or "type" in value)):
        return value
    return None
