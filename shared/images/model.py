"""The image model behind the image endpoint: one protocol, one class a provider."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from shared.events import Usage


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
    """An image model. ``check_size`` refuses a size that the model cannot draw, before a request is paid for.

    ``hint`` tells users of the offline model how to get a real one; it is empty for a real one.
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
