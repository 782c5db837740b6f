"""How the two providers frame what a model says, for the emulated chats.

Gemini: frames ``data: {GenerateContentResponse}\\r\\n\\r\\n`` and no end mark. OpenAI: ``data: {chat.completion.chunk}\\n\\n`` and
``data: [DONE]``. https://ai.google.dev/api/generate-content · https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.emulators.server import PROVIDER_TEXT, WRONG_KEY, Exchange

TOKENS = ("The ", "emula", "tor ", "says: ")


def data_frame(value: Any, end: str) -> bytes:
    # Real servers send these unescaped, and line readers that are not the standard's split on them.
    return f"data: {json.dumps(value, ensure_ascii=False)}{end}".encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class GeminiWire:
    """GenerateContentResponse frames."""

    messages: int
    key: str

    def _frame(self, parts: list[Any] | None, reason: str | None = None, usage: bool = True) -> bytes:
        candidate: dict[str, Any] = {"index": 0}
        if parts is not None:
            candidate["content"] = {"role": "model", "parts": parts}
        if reason:
            candidate["finishReason"] = reason
        frame: dict[str, Any] = {"candidates": [candidate], "modelVersion": "emulated", "responseId": "r1"}
        if usage:
            frame["usageMetadata"] = {"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 11}
        return data_frame(frame, "\r\n\r\n")

    def text(self, text: str) -> bytes:
        return self._frame([{"text": text}], usage=False)

    def empty(self) -> bytes:
        return self._frame(None, usage=False)

    def thought(self, text: str) -> bytes:
        return self._frame([{"text": text, "thought": True}], usage=False)

    def end(self, reason: str, usage: bool) -> list[bytes]:
        reasons = {"stop": "STOP", "length": "MAX_TOKENS", "safety": "SAFETY"}
        return [self._frame([{"text": ""}] if reason == "stop" else None, reasons[reason], usage)]

    def error(self, status: int) -> tuple[dict[str, Any], dict[str, str]]:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        names |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
        error: dict[str, Any] = {
            "code": status,
            "message": f"{PROVIDER_TEXT} {self.key}",
            "status": names.get(status, "UNKNOWN"),
        }
        if self.key == WRONG_KEY:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
        return {"error": error}, {}

    def wait(self, seconds: int) -> tuple[dict[str, Any], dict[str, str]]:
        body, headers = self.error(429)
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}
        body["error"]["details"] = [retry]
        return body, headers

    async def block_prompt(self, exchange: Exchange) -> None:
        await exchange.start("text/event-stream")
        usage = {"promptTokenCount": 7, "totalTokenCount": 7}
        blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage}
        await exchange.send(data_frame(blocked, "\r\n\r\n"))
        await exchange.finish()


@dataclass(frozen=True)
class OpenAIWire:
    """chat.completion.chunk frames."""

    messages: int
    key: str

    def _frame(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return data_frame({**self._head(), "choices": [choice]}, "\n\n")

    def _head(self) -> dict[str, Any]:
        return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "emulated"}

    def text(self, text: str) -> bytes:
        return self._frame({"content": text})

    def empty(self) -> bytes:
        return self._frame({"role": "assistant", "content": ""})

    def thought(self, text: str) -> bytes:
        return self._frame({"reasoning_content": text})

    def end(self, reason: str, usage: bool) -> list[bytes]:
        frames = [self._frame({}, {"safety": "content_filter"}.get(reason, reason))]
        if usage:
            told = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
            frames.append(data_frame({**self._head(), "choices": [], "usage": told}, "\n\n"))
        return [*frames, b"data: [DONE]\n\n"]

    def error(self, status: int) -> tuple[dict[str, Any], dict[str, str]]:
        codes = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
        message = f"{PROVIDER_TEXT} {self.key}"
        return {"error": {"message": message, "type": "emulated", "param": None, "code": codes.get(status)}}, {}

    def wait(self, seconds: int) -> tuple[dict[str, Any], dict[str, str]]:
        return self.error(429)[0], {"retry-after": str(seconds)}

    async def block_prompt(self, exchange: Exchange) -> None:
        body, _ = self.error(400)
        body["error"]["code"] = "content_policy_violation"
        await exchange.answer(400, body)


# ``reason`` in the methods of both is ``stop``, ``length`` or ``safety``.
AnyWire = GeminiWire | OpenAIWire
