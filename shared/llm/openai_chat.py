"""Any OpenAI-compatible chat server: ``POST {OPENAI_BASE_URL}/chat/completions`` with ``stream: true``.

OpenAI itself, and as local real models Ollama, llama.cpp and vLLM. The history is sent whole with every turn.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason
from shared.llm.checked import NotAnAnswer, fields, items, text, usage
from shared.llm.frames import WHOLE
from shared.llm.limits import TimeLimits, within_limits
from shared.llm.model import ContextMessage, Delta
from shared.llm.openai_sdk import OpenAIClient, openai_provider
from shared.llm.provider import AnswerBroken, Provider, unreadable

MAX_FRAME_BYTES = 32 * 1024 * 1024
# Some servers and gateways send other words than OpenAI, in lower or upper case.
_FINISHED: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
_REFUSED = frozenset({"content_filter", "safety"})
_TOOLS = frozenset({"tool_calls", "tool_use", "function_call"})
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "redacted_thinking"})
_ROLES = {"user": "user", "model": "assistant"}


class OpenAIChat:
    """ChatModel on chat completions. The operator gives the model's id, because every server has its own."""

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
        self._provider = openai_provider(settings, "GENAI_MODEL_ID")
        self._sdk = OpenAIClient(settings, self._provider)

    async def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply. Reasoning is reported and has no text. Raises ChatError: see ``shared/llm/limits.py``."""
        # The time in which this machine imports the SDK is not the provider's.
        await self._sdk.open()
        attempts = within_limits(self._provider, self._limits, lambda: self._attempt(history, model_id))
        async with aclosing(attempts) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sdk.aclose()

    async def _attempt(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        client = await self._sdk.open()
        frames = self._sdk.frames(
            client.chat.completions.with_streaming_response.create,
            model_id,
            # The history is a ready body, because the SDK spends 0.15 ms a message on its own parameter.
            {"messages": [], "extra_body": {"messages": self._messages(history)}},
            {"stream": True, "stream_options": {"include_usage": True}},
            MAX_FRAME_BYTES,
        )
        answered = spoken = finished = False
        async with aclosing(frames):
            async for frame in frames:
                if frame.done:
                    # The end mark counts where no finish reason came. One JSON value without a choice is no answer.
                    if not finished and (answered or frame is not WHOLE):
                        yield Delta(finish_reason="other")
                    continue
                try:
                    delta = read_delta(self._provider, frame.value, spoken)
                except NotAnAnswer as error:
                    failure = unreadable(self._provider, error)
                    break
                answered = answered or bool(isinstance(frame.value, dict) and frame.value.get("choices"))
                spoken = spoken or bool(delta.text)
                finished = finished or delta.finish_reason is not None
                yield delta
            else:
                return
        raise failure

    def _messages(self, history: Sequence[ContextMessage]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self._instruction}] if self._instruction else []
        return system + [{"role": _ROLES[said.role], "content": said.text} for said in history]


def read_delta(provider: Provider, frame: Any, spoken: bool = False) -> Delta:
    """One ``chat.completion.chunk``, or a whole ``chat.completion``, as a delta.

    ``spoken``: the reply has text already. Raises NotAnAnswer for a frame of another type, ChatError ``content_refused`` for a
    refusal and ``model_unavailable`` for ``finish_reason: "error"`` or for a call of a tool in place of a reply.
    """
    chunk = fields(frame)
    counts = usage(chunk.get("usage"), "prompt_tokens", "completion_tokens")
    choice = fields(next(iter(items(chunk.get("choices"))), None))
    message = fields(choice.get("delta")) or fields(choice.get("message"))
    said, thought = _content(message.get("content", choice.get("text")))
    reason = choice.get("finish_reason")
    word = reason.lower() if isinstance(reason, str) else "other" if reason else ""
    if message.get("refusal") or word in _REFUSED:
        raise ChatError("content_refused", provider.sentence("refused this content (safety); ask in other words."))
    if word == "error":
        raise AnswerBroken(
            provider.sentence("broke off its reply with an error; try again."), cause="finish_reason error"
        )
    if word in _TOOLS and not (spoken or said):
        raise AnswerBroken(
            provider.sentence("called a tool in place of a reply; ask in other words."), cause=f"finish_reason {word}"
        )
    return Delta(
        said,
        finish_reason=_FINISHED.get(word, "other") if word else None,
        usage=counts,
        thought=thought or any(message.get(name) for name in _THOUGHTS),
    )


def _content(value: Any) -> tuple[str, bool]:
    """The text of a message's content, and whether the content has thoughts: a string, or a list of typed parts."""
    if not isinstance(value, list):
        return text(value), False
    said, thought = "", False
    for part in value:
        kind = str(part.get("type")) if isinstance(part, dict) else "text"
        if kind in _THOUGHT_PARTS:
            thought = True
        elif kind in ("text", "output_text"):
            said += text(part.get("text") if isinstance(part, dict) else part)
    return said, thought
