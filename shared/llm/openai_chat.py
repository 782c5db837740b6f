"""Any OpenAI-compatible chat server: ``POST {OPENAI_BASE_URL}/chat/completions`` with ``stream: true``.

OpenAI itself, and as local real models Ollama, llama.cpp and vLLM. The history is sent whole with every turn.
https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason, Usage
from shared.llm.limits import TimeLimits, within_limits
from shared.llm.model import ContextMessage, Delta
from shared.llm.openai_sdk import OpenAIClient, chat_error, request_failures
from shared.llm.provider import Provider, broken_off

PROVIDER = Provider("The OpenAI-compatible server", "OPENAI_API_KEY and OPENAI_BASE_URL", "GENAI_MODEL_ID")

_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_ROLES = {"user": "user", "model": "assistant"}


class OpenAIChat:
    """ChatModel on chat completions; the model's id is the operator's to give, because every server has its own."""

    provider = "openai"
    hint = ""

    def __init__(self, settings: Settings) -> None:
        if settings.openai_api_key is None and settings.openai_base_url is None:
            raise ValueError("GENAI_PROVIDER=openai needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server without a key")
        if settings.genai_model_id is None:
            raise ValueError("GENAI_PROVIDER=openai needs GENAI_MODEL_ID: a model that the server has")
        self.default_model = settings.genai_model_id
        self.models: tuple[str, ...] = (self.default_model,)
        self._instruction = settings.genai_system_instruction
        self._limits = TimeLimits.from_settings(settings)
        self._sdk = OpenAIClient(settings)

    def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply; reasoning has no text. Raises ChatError: see ``shared/llm/limits.py``."""
        return within_limits(PROVIDER, self._limits, lambda: self._attempt(history, model_id))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.aclose()

    async def _attempt(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        client = await self._sdk.open()
        finish: str | None = None
        failure: ChatError | None = None
        try:
            chunks = await client.chat.completions.create(
                model=model_id,
                messages=[],
                stream=True,
                stream_options={"include_usage": True},
                # As a ready body, because the SDK spends 0.15 ms a message on the other way.
                extra_body={"messages": self._messages(history)},
            )
            # Leaving the block closes the upstream request, wherever the stream is.
            async with chunks:
                async for chunk in chunks:
                    usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) if chunk.usage else None
                    choice = chunk.choices[0] if chunk.choices else None
                    delta = choice.delta if choice is not None else None
                    yield Delta((delta.content if delta is not None else None) or "", usage=usage)
                    finish = (choice.finish_reason if choice is not None else None) or finish
                    if finish == "content_filter" or (delta is not None and delta.refusal):
                        raise ChatError("content_refused", f"{PROVIDER.name} refused this content (safety).")
        except request_failures() as error:
            failure = chat_error(error, PROVIDER, model_id)
        if failure is not None and finish is None:
            raise failure
        if finish is None:
            raise broken_off(PROVIDER)
        yield Delta(finish_reason=_FINISHED.get(finish, "other"))

    def _messages(self, history: Sequence[ContextMessage]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self._instruction}] if self._instruction else []
        return system + [{"role": _ROLES[said.role], "content": said.text} for said in history]
