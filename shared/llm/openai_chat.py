"""Any OpenAI-compatible chat server: ``POST {OPENAI_BASE_URL}/chat/completions`` with ``stream: true``.

OpenAI itself, and as local real models Ollama, llama.cpp and vLLM. The history is sent whole with every turn.
https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from shared.config import Settings
from shared.errors import ChatError
from shared.events import FinishReason, Usage
from shared.llm.checked import NotAnAnswer, chosen, fields, items, text, usage
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
_REFUSED = frozenset(
    {"content_filter", "safety", "sensitive", "refusal", "recitation", "prohibited_content", "blocklist", "spii"}
)
_FAILED = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
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
        reply = Reply(self._provider)
        async with aclosing(frames):
            async for frame in frames:
                try:
                    delta = reply.end(whole=frame is WHOLE) if frame.done else reply.read(frame.value)
                except NotAnAnswer as error:
                    failure = unreadable(self._provider, error)
                    break
                yield delta
            else:
                return
        raise failure

    def _messages(self, history: Sequence[ContextMessage]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self._instruction}] if self._instruction else []
        return system + [{"role": _ROLES[said.role], "content": said.text} for said in history]


class Reply:
    """Reads the frames of one answer: ``chat.completion.chunk`` objects, or one whole ``chat.completion``.

    An answer may have several choices, though one is asked for. The reply is the choice with index 0, or the first that
    the server sends.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._index: int | None = None
        self._spoken = False
        self._called_a_tool = False
        self._finished = False

    def read(self, frame: Any) -> Delta:
        """One frame as a delta.

        Raises NotAnAnswer for a frame of another type, ChatError ``content_refused`` for a refusal and ``model_unavailable``
        for a finish reason that says that the model failed, or for a call of a tool in place of a reply.
        """
        chunk = fields(frame)
        choice, self._index = chosen(items(chunk.get("choices")), self._index)
        message = fields(choice.get("delta")) or fields(choice.get("message"))
        content = _content(message.get("content", choice.get("text")))
        reason = choice.get("finish_reason")
        word = reason.lower() if isinstance(reason, str) else "other" if reason else ""
        self._spoken = self._spoken or bool(content.text)
        self._called_a_tool = self._called_a_tool or bool(message.get("tool_calls") or message.get("function_call"))
        if message.get("refusal") or content.refused or word in _REFUSED:
            raise ChatError(
                "content_refused", self._provider.sentence("refused this content (safety); ask in other words.")
            )
        if word in _FAILED:
            words = self._provider.sentence("broke off its reply with an error; try again.")
            raise AnswerBroken(words, cause=f"finish_reason {word}")
        if word:
            self._refuse_tool(word)
        self._finished = self._finished or bool(word)
        return Delta(
            content.text,
            finish_reason=_FINISHED.get(word, "other") if word else None,
            usage=_usage(chunk) or _usage(choice),
            thought=content.thought or any(message.get(name) for name in _THOUGHTS),
        )

    def end(self, *, whole: bool) -> Delta:
        """The end mark as a delta: it counts where no finish reason came. ``whole``: the answer was one JSON value.

        One JSON value without a choice is no answer. Raises ChatError ``model_unavailable`` where the answer only called a tool.
        """
        if self._finished or (whole and self._index is None):
            return Delta()
        self._refuse_tool("none")
        return Delta(finish_reason="other")

    def _refuse_tool(self, word: str) -> None:
        if not self._spoken and (self._called_a_tool or word in _TOOLS):
            words = self._provider.sentence("called a tool in place of a reply; ask in other words.")
            raise AnswerBroken(words, cause=f"finish_reason {word}")


def _usage(counted: dict[str, Any]) -> Usage | None:
    return usage(counted.get("usage"), "prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class _Content:
    """What a message's content says: its text, whether it has thoughts, and whether it is a refusal."""

    text: str = ""
    thought: bool = False
    refused: bool = False


def _content(value: Any) -> _Content:
    """A message's content: a string, or a list of typed parts. A part without a type is a text."""
    if not isinstance(value, list):
        return _Content(text(value))
    content = _Content()
    for part in value:
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        if kind in _THOUGHT_PARTS:
            content.thought = True
        elif kind == "refusal":
            content.refused = True
        elif kind in ("text", "output_text"):
            content.text += text(part.get("text") if isinstance(part, dict) else part)
    return content
