"""The image model that the settings name; a provider's SDK is imported when it is first used."""

from __future__ import annotations

from shared.config import Settings
from shared.images.model import ImageModel


def open_image_model(settings: Settings) -> ImageModel:
    """The model that ``IMAGE_PROVIDER`` names; ``auto`` takes OpenAI when its key is set, else the offline stand-in.

    Raises ValueError with what to set when a named provider lacks its key.
    """
    provider = settings.image_provider
    if provider == "auto":
        provider = "openai" if settings.openai_api_key is not None else "offline"
    if provider == "openai":
        from shared.images.openai_images import OpenAIImages

        return OpenAIImages(settings)
    from shared.images.offline import OfflineImages

    return OfflineImages(settings)
