"""The language model behind the chat: one protocol, one class a provider.

A provider is one class with ``stream``. Only ``open_chat_model`` knows all of them. A provider's SDK is imported when it is first
used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.events import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class ContextMessage:
    """One message of the model's context."""

    role: Literal["user", "model"]
    text: str


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of a streamed reply. A step without text is a sign of life.

    ``text`` is what the model said, ``thought``: the provider reports that the model thinks. ``usage`` is the count so far.
    ``quiet_s`` and ``drop`` are of the offline model alone: the turn's readers in this process get no heartbeats for so many
    seconds, or lose their lines.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    thought: bool = False
    quiet_s: float = 0.0
    drop: bool = False


class ChatModel(Protocol):
    """A streaming chat model.

    ``provider`` and ``default_model`` name what answers, ``models`` lists the ids that a request may name (the default
    first), ``hint`` tells users of the offline model how to get a real one; it is empty for a real one.
    """

    provider: str
    default_model: str
    models: tuple[str, ...]
    hint: str

    def stream(self, history: Sequence[ContextMessage], model_id: str) -> AsyncGenerator[Delta, None]:
        """Stream the reply to the last message of ``history`` (a user's).

        Raises ChatError with a ``model_*`` code or ``content_refused``. Closing the iterator (``aclose``) closes the
        upstream request at once.
        """
        ...

    async def aclose(self) -> None:
        """Release the provider's connections."""
        ...
