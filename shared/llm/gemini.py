"""Gemini through google-genai: ``POST /v1/models/{model}:streamGenerateContent?alt=sse``, key in ``x-goog-api-key``.

The history is sent whole with every turn, one Content a message; nothing is kept at the provider. The SDK is imported, in a
thread, when the first turn needs it, and one client serves the process. https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason, Usage
from shared.llm.limits import TimeLimits, within_limits
from shared.llm.model import ContextMessage, Delta
from shared.llm.provider import Provider, broken_off, provider_error

if TYPE_CHECKING:
    import httpx2
    from google.genai import Client, errors, types


PROVIDER = Provider("Gemini", "GEMINI_API_KEY", "GENAI_MODEL_ID")
DEFAULT_MODEL = "gemini-3.8-flash"
MODELS = (DEFAULT_MODEL, "gemini-3.5-flash-lite")

_KEEPALIVE_CONNECTIONS = 100
# A model id is a part of the URL's path.
_MODEL_ID = re.compile(r"(models/|tunedModels/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINISHED: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_REFUSED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION", "IMAGE_SAFETY"}
)
# The responses that this turn's task has opened. Closing them closes the request to Gemini at once; the SDK's own iterator
# leaves the request open until the garbage collector runs.
_OPENED: ContextVar[list[httpx2.Response]] = ContextVar("_OPENED")


class GeminiChat:
    """ChatModel on the Gemini API. ``GOOGLE_GEMINI_BASE_URL`` points it elsewhere."""

    provider = "gemini"
    hint = ""

    def __init__(self, settings: Settings) -> None:
        key = settings.gemini_api_key or settings.google_api_key
        if key is None:
            raise ValueError("GENAI_PROVIDER=gemini needs a key: set GEMINI_API_KEY (or GOOGLE_API_KEY)")
        self.default_model = settings.genai_model_id or DEFAULT_MODEL
        self.models: tuple[str, ...] = tuple(dict.fromkeys((self.default_model, *MODELS)))
        self._key = key
        self._base_url = settings.google_gemini_base_url
        self._instruction = settings.genai_system_instruction
        self._limits = TimeLimits.from_settings(settings)
        self._max_connections = settings.provider_max_connections
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._http: httpx2.AsyncClient | None = None

    def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply, usage as often as Gemini tells it; thoughts and empty frames have no text.

        ``output_tokens`` counts thoughts, as Gemini bills them. Raises ChatError: see ``shared/llm/limits.py``.
        """
        return within_limits(PROVIDER, self._limits, lambda: self._attempt(history, model_id))

    async def aclose(self) -> None:
        """Close the connections to Gemini."""
        if self._http is not None:
            await self._http.aclose()

    async def _attempt(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        if not _MODEL_ID.fullmatch(model_id):
            raise provider_error(PROVIDER, 404, model=model_id)
        client = await self._open()
        import httpx2
        from google.genai import errors

        opened: list[httpx2.Response] = []
        finish: FinishReason | None = None
        failure: ChatError | None = None
        try:
            chunks = await client.aio.models.generate_content_stream(
                model=model_id, contents="…", config=self._config(history)
            )
            while (chunk := await _next(chunks, opened)) is not None:
                yield Delta(_text(chunk), usage=_usage(chunk))
                finish = _finish(chunk) or finish
        except errors.APIError as error:
            failure = _chat_error(error, model_id)
        except httpx2.TimeoutException:
            failure = provider_error(PROVIDER, 504, model=model_id)
        except httpx2.HTTPError:
            failure = broken_off(PROVIDER) if opened else provider_error(PROVIDER, None, model=model_id)
        except (ValueError, TypeError):  # not JSON, or JSON that is not Gemini's
            failure = provider_error(PROVIDER, 502, model=model_id)
        finally:
            for response in opened:
                await response.aclose()
        # Raised out here, so that no provider's text hangs on the exception as its context.
        if failure is not None and finish is None:
            raise failure
        if finish is None:
            raise broken_off(PROVIDER)
        yield Delta(finish_reason=finish)

    def _config(self, history: Sequence[ContextMessage]) -> types.GenerateContentConfigDict:
        """The request's parameters; the history goes in as the ready body, because the SDK spends 0.1-0.3 ms a Content."""
        from google.genai import types

        contents = [{"role": said.role, "parts": [{"text": said.text}]} for said in history]
        config: types.GenerateContentConfigDict = {
            "http_options": types.HttpOptions(extra_body={"contents": contents}),  # type: ignore[typeddict-item]
            "automatic_function_calling": {"disable": True},
            "automatic_continuation": False,
        }
        if self._instruction:
            config["system_instruction"] = self._instruction
        return config

    async def _open(self) -> Client:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._load)
        return self._client

    def _load(self) -> Client:
        """Import the SDK and build its client, about a second of work the first time."""
        import httpx2
        from google.genai import Client, types

        connect_s = self._limits.connect_s

        # The SDK overwrites the client's own timeouts, and one that is given to it goes out as X-Server-Timeout, which Google
        # refuses below 10 s: so the connection's limits are set here, the answer's in ``within_limits``.
        async def limit(request: httpx2.Request) -> None:
            request.extensions["timeout"] = {"connect": connect_s, "pool": connect_s, "write": connect_s, "read": None}

        async def note(response: httpx2.Response) -> None:
            _OPENED.get().append(response)

        self._http = httpx2.AsyncClient(
            limits=httpx2.Limits(
                max_connections=self._max_connections, max_keepalive_connections=_KEEPALIVE_CONNECTIONS
            ),
            event_hooks={"request": [limit], "response": [note]},
        )
        return Client(
            api_key=self._key.get_secret_value(),
            vertexai=False,
            http_options=types.HttpOptions(base_url=self._base_url, httpx_async_client=self._http),
        )


async def _next(chunks: Any, opened: list[httpx2.Response]) -> types.GenerateContentResponse | None:
    """The next chunk, or None; a response opened meanwhile is noted in ``opened``."""
    token = _OPENED.set(opened)
    try:
        chunk: types.GenerateContentResponse | None = await anext(chunks, None)
        return chunk
    finally:
        _OPENED.reset(token)


def _text(chunk: types.GenerateContentResponse) -> str:
    """What the model says in this chunk, without its thoughts; ``chunk.text`` would warn about every other part."""
    content = chunk.candidates[0].content if chunk.candidates else None
    parts = content.parts if content is not None and content.parts else ()
    return "".join(part.text for part in parts if part.text and not part.thought)


def _finish(chunk: types.GenerateContentResponse) -> FinishReason | None:
    """Why the reply ended, where this chunk says so.

    Raises ChatError ``content_refused`` where the prompt was blocked or the reply ended for safety.
    """
    if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
        raise ChatError("content_refused", "Gemini refused the prompt (safety).")
    reason = chunk.candidates[0].finish_reason if chunk.candidates else None
    if reason is None:
        return None
    if reason.value in _REFUSED:
        raise ChatError("content_refused", "Gemini broke off its reply (safety).")
    return _FINISHED.get(reason.value, "other")


def _usage(chunk: types.GenerateContentResponse) -> Usage | None:
    told = chunk.usage_metadata
    if told is None:
        return None
    spoken = [n for n in (told.candidates_token_count, told.thoughts_token_count) if n is not None]
    return Usage(told.prompt_token_count, sum(spoken) if spoken else None)


def _chat_error(error: errors.APIError, model_id: str) -> ChatError:
    """Our error for Gemini's: by its HTTP status, google.rpc.Code, ErrorInfo.reason and RetryInfo.retryDelay."""
    body = error.details.get("error", error.details) if isinstance(error.details, dict) else {}
    details = [d for d in body.get("details") or () if isinstance(d, dict)] if isinstance(body, dict) else []
    codes = [str(d["reason"]) for d in details if "reason" in d]
    delays = [str(d["retryDelay"]).removesuffix("s") for d in details if "retryDelay" in d]
    retry_after_s = float(delays[0]) if delays and re.fullmatch(r"\d{1,6}(\.\d{1,9})?", delays[0]) else None
    status = error.code if isinstance(error.code, int) else None
    return provider_error(PROVIDER, status, [*codes, str(error.status)], model=model_id, retry_after_s=retry_after_s)
