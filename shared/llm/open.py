"""The chat model that the settings name; a provider's SDK is imported when it is first used."""

from __future__ import annotations

from shared.config import Settings
from shared.llm.model import ChatModel


def open_chat_model(settings: Settings) -> ChatModel:
    """The model that ``GENAI_PROVIDER`` names; ``auto`` takes Gemini when its key is set, else the offline stand-in.

    Raises ValueError with what to set when a named provider lacks its key or model.
    """
    provider = settings.genai_provider
    if provider == "auto":
        provider = "gemini" if settings.gemini_api_key or settings.google_api_key else "offline"
    if provider == "gemini":
        from shared.llm.gemini import GeminiChat

        return GeminiChat(settings)
    if provider == "openai":
        from shared.llm.openai_chat import OpenAIChat

        return OpenAIChat(settings)
    from shared.llm.offline import OfflineChat

    return OfflineChat(settings)
