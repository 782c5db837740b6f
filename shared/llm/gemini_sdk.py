"""The google-genai SDK: one client, whose answers are checked and made plain before the SDK reads them.

google-genai 3.6 reads comments and ``event:`` lines of server-sent events as JSON, and fails as a whole on one field of
another type. So the HTTP client below gives the SDK frames with only what the chat reads: texts, thoughts, finish
reasons, counts and errors.

Importing this module takes about a second, so ``gemini.py`` imports it in a thread when the first turn needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextvars import ContextVar
from typing import Any

import httpx2
from google.genai import Client, errors, types

from shared.errors import ChatError
from shared.llm.checked import NotAnAnswer, chosen, fields, items, text, token_count
from shared.llm.environment import cause_of, connection_words
from shared.llm.frames import WHOLE, read_frames
from shared.llm.http_client import ProviderClient
from shared.llm.limits import TimeLimits
from shared.llm.model import ContextMessage
from shared.llm.provider import (
    AnswerBroken,
    Provider,
    broken_off,
    error_codes,
    error_status,
    provider_error,
    retry_after_s,
    unreadable,
)

MAX_FRAME_BYTES = 32 * 1024 * 1024
_KEEPALIVE_CONNECTIONS = 100
_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
# What the SDK raises besides its own errors for an answer that it did not expect.
_UNEXPECTED = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_THOUGHTS = re.compile("think|thought", re.IGNORECASE)
# The responses that this turn's task has opened. Closing them closes the request to Gemini at once; the SDK's own iterator
# leaves the request open until the garbage collector runs.
_OPENED: ContextVar[list[httpx2.Response]] = ContextVar("_OPENED")


class GeminiSdk:
    """The SDK's client; one serves the process."""

    def __init__(
        self, provider: Provider, key: str, base_url: str | None, limits: TimeLimits, max_connections: int
    ) -> None:
        self._provider = provider
        self._without_thoughts: set[str] = set()
        self._http = _PlainClient(limits.connect_s, max_connections)
        options = types.HttpOptions(base_url=base_url, httpx_async_client=self._http)
        self._client = Client(api_key=key, vertexai=False, http_options=options)

    async def aclose(self) -> None:
        """Close the connections to Gemini."""
        await self._http.aclose()

    async def chunks(
        self, history: Sequence[ContextMessage], instruction: str | None, model_id: str
    ) -> AsyncGenerator[types.GenerateContentResponse, None]:
        """One answer, chunk by chunk; leaving the iterator closes the request.

        Thoughts are asked for, because a chunk with a thought is a sign of life; a model that refuses that is asked again
        without. Raises ChatError.
        """
        failure: ChatError | None = None
        opened: list[httpx2.Response] = []
        try:
            while True:
                thoughts = model_id not in self._without_thoughts
                config = _config(history, instruction, thoughts)
                stream = await self._client.aio.models.generate_content_stream(
                    model=model_id, contents="…", config=config
                )
                try:
                    while (chunk := await _next(stream, opened)) is not None:
                        yield chunk
                    break
                except errors.ClientError as error:
                    refused = error.code == 400 and not opened and _THOUGHTS.search(str(error.details))
                    if not (thoughts and refused):
                        raise
                    self._without_thoughts.add(model_id)
        except NotAnAnswer as error:
            failure = unreadable(self._provider, error)
        except errors.APIError as error:
            failure = _api_error(self._provider, error, model_id)
            failure = AnswerBroken.by(failure) if opened else failure
        except httpx2.TimeoutException as error:
            failure = ChatError("model_timeout", connection_words(self._provider, error), cause=cause_of(error))
        except (httpx2.HTTPError, *_UNEXPECTED) as error:
            failure = self._failure(error, begun=bool(opened))
        finally:
            for response in opened:
                await response.aclose()
        # Raised outside the ``except`` blocks, so that the error has no context with a provider's text.
        if failure is not None:
            raise failure

    def _failure(self, error: Exception, *, begun: bool) -> ChatError:
        if begun:
            return broken_off(self._provider, cause_of(error))
        if isinstance(error, httpx2.ConnectError | httpx2.ProxyError | httpx2.UnsupportedProtocol):
            words = connection_words(self._provider, error)
        elif isinstance(error, httpx2.TransportError):
            words = self._provider.sentence("closed the connection before it answered; try again.")
        else:
            words = f"The request to {self._provider.name} could not be sent; the server's log names the cause."
        return ChatError("model_unavailable", words, cause=cause_of(error))


class _PlainClient(ProviderClient):
    """The HTTP client that the SDK is given: its responses are plain, and the time limits are this project's.

    The SDK overwrites a client's time-outs, and a time-out that is given to the SDK goes out as ``X-Server-Timeout``, which
    Google refuses below 10 s. So the limits of the connection are set here, those of the answer in ``within_limits``.
    """

    def __init__(self, connect_s: float, max_connections: int) -> None:
        limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=_KEEPALIVE_CONNECTIONS)
        super().__init__(limits=limits)
        self._time_out = {"connect": connect_s, "pool": connect_s, "write": connect_s, "read": None}

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send the request; the response is plain JSON in server-sent events, or a plain error object."""
        request.extensions["timeout"] = self._time_out
        response = await super().send(request, **options | {"stream": True})
        if not response.is_success:
            body = _plain_error(await response.aread())
            await response.aclose()
            # A proxy between says with its header for how long to wait, Gemini with RetryInfo.
            wait = response.headers.get("retry-after", "")
            headers = {"retry-after": wait} if wait.isascii() else {}
            return httpx2.Response(
                response.status_code, headers=headers, content=json.dumps(body).encode(), request=request
            )
        _OPENED.get().append(response)
        return httpx2.Response(200, content=_plain_events(response.aiter_bytes()), request=request)


async def _next(chunks: Any, opened: list[httpx2.Response]) -> types.GenerateContentResponse | None:
    """The next chunk, or None; a response that is opened meanwhile is added to ``opened``."""
    token = _OPENED.set(opened)
    try:
        chunk: types.GenerateContentResponse | None = await anext(chunks, None)
        return chunk
    finally:
        _OPENED.reset(token)


def _config(
    history: Sequence[ContextMessage], instruction: str | None, thoughts: bool
) -> types.GenerateContentConfigDict:
    """The request's parameters. The history is a ready body, because the SDK spends 0.1-0.3 ms on a Content of its own."""
    contents = [{"role": said.role, "parts": [{"text": said.text}]} for said in history]
    config: types.GenerateContentConfigDict = {
        "http_options": types.HttpOptions(extra_body={"contents": contents}),  # type: ignore[typeddict-item]
        "automatic_function_calling": {"disable": True},
        "automatic_continuation": False,
    }
    if thoughts:
        config["thinking_config"] = {"include_thoughts": True}
    if instruction:
        config["system_instruction"] = instruction
    return config


async def _plain_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The answer as the SDK can read it; a sign of life without text becomes an empty frame. Raises NotAnAnswer."""
    answer = _Answer()
    async for frame in read_frames(chunks, MAX_FRAME_BYTES):
        if frame.done:
            # Gemini has no end mark, but a gateway may send OpenAI's mark. That mark counts where no finish reason
            # came. One JSON value without a candidate is no answer.
            if not answer.finished and (answer.begun or frame is not WHOLE):
                yield _event({"candidates": [{"finishReason": "OTHER"}]})
            return
        for value in frame.value if isinstance(frame.value, list) else [frame.value]:
            yield _event(answer.plain(value))


def _event(frame: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


class _Answer:
    """Makes the frames of one answer plain: only what the chat reads, every field of the right type.

    An answer may have several candidates, though one is asked for. The reply is the candidate with index 0, or the first
    that Gemini sends.
    """

    def __init__(self) -> None:
        self._index: int | None = None
        self._called_a_tool = False
        self.finished = False

    @property
    def begun(self) -> bool:
        """Whether a candidate has come."""
        return self._index is not None

    def plain(self, value: Any) -> dict[str, Any]:
        """One GenerateContentResponse. Raises NotAnAnswer."""
        frame = fields(value)
        if frame.get("error"):
            return _error_fields(frame["error"])
        plain: dict[str, Any] = {}
        reason = fields(frame.get("promptFeedback")).get("blockReason")
        if reason and (not isinstance(reason, str) or _names(reason)):
            plain["promptFeedback"] = {"blockReason": "OTHER"}
        counts = {name: token_count(value) for name, value in _objects(frame.get("usageMetadata")).items()}
        if told := {name: counts[name] for name in _COUNTS if counts.get(name) is not None}:
            plain["usageMetadata"] = told
        if candidates := items(frame.get("candidates")):
            plain["candidates"] = [self._candidate(candidates)]
        return plain

    def _candidate(self, candidates: list[Any]) -> dict[str, Any]:
        candidate, self._index = chosen(candidates, self._index)
        plain: dict[str, Any] = {}
        parts = []
        for part in items(fields(candidate.get("content")).get("parts")):
            self._called_a_tool = self._called_a_tool or bool(fields(part).get("functionCall"))
            if fields(part).get("thought"):
                parts.append({"text": "", "thought": True})
            elif said := text(fields(part).get("text")):
                parts.append({"text": said})
        if parts:
            plain["content"] = {"role": "model", "parts": parts}
        reason = candidate.get("finishReason")
        if reason and (not isinstance(reason, str) or _names(reason)):
            word = str(reason).upper()
            # A reply that only calls a tool ends with STOP. No tool is offered, so that is no reply.
            word = "UNEXPECTED_TOOL_CALL" if word == "STOP" and self._called_a_tool else word
            plain["finishReason"] = word if word in types.FinishReason.__members__ else "OTHER"
            self.finished = True
        return plain


def _names(reason: str) -> bool:
    """Whether an enum's word names a reason."""
    return not reason.upper().endswith("_UNSPECIFIED")


def _objects(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain_error(body: bytes) -> dict[str, Any]:
    """The API's error object in the body of an error response; empty where the body has none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    error = value.get("error") if isinstance(value, dict) else None
    # Any gateway may send an "error"; Gemini's has a code and a status.
    return _error_fields(error) if isinstance(error, dict) and ("code" in error or "status" in error) else {}


def _error_fields(error: Any) -> dict[str, Any]:
    """``{"error": …}`` with a code and a status of the right types, as the SDK expects them."""
    error = error if isinstance(error, dict) else {"message": error}
    details = [one for one in error.get("details") or () if isinstance(one, dict)] if _listed(error) else []
    plain = {"code": error_status(error.get("code")) or 500, "details": details, "message": str(error.get("message"))}
    return {"error": {**plain, "status": str(error.get("status", ""))}}


def _listed(error: dict[str, Any]) -> bool:
    return isinstance(error.get("details"), list)


def _api_error(provider: Provider, error: errors.APIError, model_id: str) -> ChatError:
    """The ChatError by the HTTP status, google.rpc.Code, ErrorInfo.reason and RetryInfo.retryDelay."""
    fields_of = error.details.get("error", {}) if isinstance(error.details, dict) else {}
    details = fields_of.get("details", [])
    reasons = [code for one in details for code in error_codes(one, ("reason",))]
    headers = getattr(error.response, "headers", None) or {}
    delays = [str(one["retryDelay"]).removesuffix("s") for one in details if "retryDelay" in one]
    return provider_error(
        provider,
        error.code,
        [*reasons, str(fields_of.get("status", ""))],
        model=model_id,
        retry_after_s=retry_after_s(delays[0] if delays else headers.get("retry-after", "")),
        wrong_address=not fields_of,
        cause=f"{cause_of(error)}, HTTP {error.code}",
    )
