"""The offline model: a chat without a key or a network, the same tokens on the same schedule for every transport.

It is a stand-in and says so. ``offline_reply`` composes the reply, ``stage_directions`` reads what a message may ask of the
model, such as a failure or a silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from shared.config import Settings
from shared.errors import ChatError
from shared.events import Usage
from shared.llm.model import ContextMessage, Delta
from shared.llm.offline_reply import digest, limited_reply
from shared.llm.tokens import count_tokens
from shared.stage_directions import Stage, directions

MODEL_ID = "offline-1"
FAILS_AFTER_TOKENS = 3

_MEMO_SIZE = 256
_MEMO_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class _Script:
    """A reply that is computed whole before it streams."""

    deltas: tuple[Delta, ...]
    last: Delta
    stage: Stage


class OfflineChat:
    """ChatModel without a provider, at ``OFFLINE_TOKENS_PER_S`` (0: no pause and no ``await`` between tokens)."""

    provider = "offline"
    hint = "offline stand-in (set GEMINI_API_KEY for a real model)"

    def __init__(self, settings: Settings) -> None:
        self.default_model = settings.genai_model_id or MODEL_ID
        self.models: tuple[str, ...] = (MODEL_ID,)
        self._per_s = settings.offline_tokens_per_s
        self._first_s = settings.offline_first_token_ms / 1000
        self._limit = settings.offline_tokens
        self._memo: dict[bytes, _Script] = {}

    async def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply. Token i is due at first + i / rate on the loop's clock, so that delays do not add up.

        Raises ChatError ``model_not_found`` for any id but ``offline-1``, and the code that a stage direction names.
        """
        if model_id != MODEL_ID:
            raise ChatError(
                "model_not_found",
                f"The offline model is {MODEL_ID}; give this model, or none (model_id in a request, GENAI_MODEL_ID at the server).",
            )
        script = self._script(history)
        stage, deltas = script.stage, script.deltas
        clock = asyncio.get_running_loop().time
        due = clock() + self._first_s + stage.slow_s
        if self._first_s + stage.slow_s > 0:
            await asyncio.sleep(due - clock())
        if stage.think_s:
            yield Delta(thought=True)
            await asyncio.sleep(stage.think_s)
            due += stage.think_s
        if stage.drop:
            yield Delta(drop=True)
        if stage.fail_first:
            raise ChatError(stage.fail_first)
        if stage.fail:
            deltas = deltas[:FAILS_AFTER_TOKENS]
        silence_s = stage.stall_s + stage.quiet_s
        half = len(deltas) // 2 if silence_s else 0
        for part, pause_s in ((deltas[:half], silence_s), (deltas[half:], 0.0)):
            if not self._per_s:
                for delta in part:
                    yield delta
            else:
                gap_s = 1 / self._per_s
                for i, delta in enumerate(part):
                    wait_s = due + i * gap_s - clock()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                    yield delta
                due += len(part) * gap_s
            if pause_s:
                if stage.quiet_s:
                    yield Delta(quiet_s=pause_s)
                await asyncio.sleep(pause_s)
                due += pause_s
        if stage.fail:
            raise ChatError(stage.fail)
        yield script.last

    async def aclose(self) -> None:
        """Nothing to release."""

    def _script(self, history: Sequence[ContextMessage]) -> _Script:
        """The reply as ready deltas. The last 256 short ones are kept, because a load test asks the same again."""
        key = digest(history)
        script = self._memo.get(key)
        if script is None:
            tokens, cut = limited_reply(history, self._limit)
            usage = Usage(count_tokens(said.text for said in history), len(tokens))
            last = Delta(finish_reason="length" if cut else "stop", usage=usage)
            stage = directions(history[-1].text if history else "")
            script = _Script(tuple(map(Delta, tokens)), last, stage)
            while len(self._memo) >= _MEMO_SIZE:
                del self._memo[next(iter(self._memo))]
            if len(tokens) <= _MEMO_TOKENS:
                self._memo[key] = script
        return script
