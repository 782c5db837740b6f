"""The image model behind the image endpoint: one protocol, one class a provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shared.events import Usage

if TYPE_CHECKING:
    from shared.config import Settings


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One whole picture: a preview, or (``preview=False``) the final one. ``width`` and ``height`` in pixels."""

    data: bytes
    mime_type: str
    width: int
    height: int
    preview: bool
    revised_prompt: str | None = None
    usage: Usage | None = None


class ImageModel(Protocol):
    """An image model. ``check_size`` refuses what the model cannot draw before anything is paid for.

    ``hint`` tells offline users how to get a real model (empty otherwise).
    """

    provider: str
    default_model: str
    hint: str

    def check_size(self, width: int, height: int) -> None:
        """Raise ChatError ``invalid_request`` when the model cannot draw this size."""
        ...

    def generate(self, prompt: str, width: int, height: int) -> AsyncGenerator[ImagePart, None]:
        """Previews where the model has them, then exactly one final picture.

        Raises ChatError with a ``model_*`` code or ``content_refused``. Closing the iterator closes the upstream
        request at once.
        """
        ...

    async def aclose(self) -> None:
        """Release the provider's connections."""
        ...


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
