"""``imagegeneration.ImageGenerationService``: the original article's contract, served unchanged.

The key is a field of the request, and the whole picture comes back in one message, in base64.
"""

from __future__ import annotations

import pybase64

from protocols.grpc import image_generation_pb2 as pb
from shared.errors import ChatError
from shared.server.context import ServerContext

# The largest message that a client's channel accepts unless the client raises the limit.
CLIENT_LIMIT_BYTES = 4 * 1024 * 1024


class ImageService:
    """The one RPC of the service. The picture is a turn of the chat's own service, so ``GetImage`` gives it again."""

    def __init__(self, server_context: ServerContext) -> None:
        self._service = server_context.service
        self._access = server_context.access

    async def GenerateImage(self, request: pb.ImageRequest) -> pb.ImageResponse:
        """Draw a picture, and return the whole of it.

        Raises ``permission_denied`` for a wrong key (checked before the prompt) and ``payload_too_large``.
        """
        try:
            self._access.check_key({"x-api-key": request.api_key})
        except ChatError:
            raise ChatError("permission_denied", "Invalid API key") from None
        if not request.prompt:
            raise ChatError("invalid_request", "Prompt is required")
        reader = await self._service.start_image(request.prompt, size=request.size or None)
        picture = (await reader.whole()).picture()
        answer = pb.ImageResponse(image=pybase64.b64encode_as_string(picture.image), filename=f"{picture.image_id}.png")
        if answer.ByteSize() > CLIENT_LIMIT_BYTES:
            raise ChatError(
                "payload_too_large",
                f"The picture is too large for one message: chat.ChatService/GenerateImage streams it,"
                f" and chat.ChatService/GetImage gives this one, {picture.image_id}.",
            )
        return answer
