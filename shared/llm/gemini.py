"""Gemini through google-genai: ``POST /v1/models/{model}:streamGenerateContent?alt=sse``, key in ``x-goog-api-key``.

The history is sent whole with every turn, one Content a message; nothing is kept at the provider.
https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason, Usage
from shared.llm.checked import token_count
from shared.llm.environment import cause_of, setup_words
from shared.llm.limits import TimeLimits, within_limits
from shared.llm.model import ContextMessage, Delta
from shared.llm.provider import AnswerBroken, Provider, provider_error

if TYPE_CHECKING:
    from google.genai import types

    from shared.llm.gemini_sdk import GeminiSdk

PROVIDER = Provider(
    "Gemini", "GEMINI_API_KEY", "GENAI_MODEL_ID", "GOOGLE_GEMINI_BASE_URL", "it has no version at its end"
)
DEFAULT_MODEL = "gemini-3.8-flash"
MODELS = (DEFAULT_MODEL, "gemini-3.5-flash-lite")

# A model id is a part of the URL's path.
_MODEL_ID = re.compile(r"(models/|tunedModels/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINISHED: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_REFUSED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "ESCALATION",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)
# Gemini gave up. A reply without text that ends with one of these reasons is no reply.
_ABORTED = frozenset(
    {
        "IMAGE_OTHER",
        "LANGUAGE",
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)


class GeminiChat:
    """ChatModel on the Gemini API. ``GOOGLE_GEMINI_BASE_URL`` points it at another server."""

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
        self._sdk: GeminiSdk | None = None

    async def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply. Thoughts are reported and have no text; ``output_tokens`` counts them, as Gemini bills them.

        Raises ChatError: see ``shared/llm/limits.py``.
        """
        # The time in which this machine imports the SDK is not the provider's.
        sdk = await self._open()
        async with aclosing(
            within_limits(PROVIDER, self._limits, lambda: self._attempt(sdk, history, model_id))
        ) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Close the connections to Gemini."""
        if self._sdk is not None:
            await self._sdk.aclose()

    async def _attempt(
        self, sdk: GeminiSdk, history: Sequence[ContextMessage], model_id: str
    ) -> AsyncGenerator[Delta, None]:
        if not _MODEL_ID.fullmatch(model_id):
            raise provider_error(PROVIDER, 404, model=model_id)
        spoken = False
        async with aclosing(sdk.chunks(history, self._instruction, model_id)) as chunks:
            async for chunk in chunks:
                delta = read_delta(chunk, spoken)
                spoken = spoken or bool(delta.text)
                yield delta

    async def _open(self) -> GeminiSdk:
        """The SDK; the first call takes about a second, off the event loop. Raises ChatError ``model_unavailable``."""
        failure: ChatError | None = None
        async with self._opening:
            if self._sdk is None:
                try:
                    self._sdk = await asyncio.to_thread(self._load)
                except Exception as error:  # noqa: BLE001 - building a client runs the code of many libraries
                    failure = ChatError("model_unavailable", setup_words(PROVIDER, error), cause=cause_of(error))
        if self._sdk is None:
            raise failure or ChatError("model_unavailable")
        return self._sdk

    def _load(self) -> GeminiSdk:
        from shared.llm.gemini_sdk import GeminiSdk

        key = self._key.get_secret_value()
        return GeminiSdk(PROVIDER, key, self._base_url, self._limits, self._max_connections)


def read_delta(chunk: types.GenerateContentResponse, spoken: bool = False) -> Delta:
    """One chunk as a delta; ``spoken``: the reply has text already.

    Raises ChatError ``content_refused`` where the prompt was blocked or the reply ended for safety, and ``model_unavailable``
    where Gemini gave up without a text.
    """
    if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
        raise ChatError("content_refused", "Gemini refused the prompt (safety); ask in other words.")
    candidate = chunk.candidates[0] if chunk.candidates else None
    # ``chunk.text`` would warn about every part that is no text.
    parts = (candidate.content.parts if candidate is not None and candidate.content is not None else None) or ()
    said = "".join(part.text for part in parts if part.text and not part.thought)
    reason = candidate.finish_reason.value if candidate is not None and candidate.finish_reason is not None else ""
    if reason in _REFUSED:
        raise ChatError("content_refused", "Gemini broke off its reply (safety); ask in other words.")
    if reason in _ABORTED and not (spoken or said):
        raise AnswerBroken(
            "Gemini ended its answer without a text; try again, or ask in other words.", cause=f"finishReason {reason}"
        )
    return Delta(
        said,
        finish_reason=_FINISHED.get(reason, "other") if reason else None,
        usage=_usage(chunk),
        thought=any(part.thought for part in parts),
    )


def _usage(chunk: types.GenerateContentResponse) -> Usage | None:
    told = chunk.usage_metadata
    if told is None:
        return None
    spoken = [n for n in (told.candidates_token_count, told.thoughts_token_count) if n is not None]
    return Usage(told.prompt_token_count, token_count(sum(spoken)) if spoken else None)
