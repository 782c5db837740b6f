"""The openai SDK, for the chat and the images: one client, the frames of its answers, and its errors as ChatError.

``OPENAI_BASE_URL`` (with its ``/v1``) points the client at any server that speaks the same HTTP API. The SDK sends the requests;
the answers are read here from its raw responses (``with_streaming_response``), because the SDK builds objects from JSON without
checking their types and does not show ``[DONE]``. It is imported, in a thread, when the first request needs it.
https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio

from shared.config import Settings
from shared.errors import ChatError
from shared.llm.checked import NotAnAnswer
from shared.llm.environment import cause_of, setup_words
from shared.llm.frames import Frame, read_frames
from shared.llm.openai_errors import error_frame, refused_parameters, request_error
from shared.llm.provider import Provider, broken_off, unreadable

if TYPE_CHECKING:
    import openai

    # ``create`` or ``generate`` of a resource's ``with_streaming_response``.
    Send = Callable[..., AbstractAsyncContextManager[openai.AsyncAPIResponse[Any]]]

OPENAI_URL = "https://api.openai.com/v1"
_KEEPALIVE_CONNECTIONS = 100
_DRAIN_S = 0.1
_REMEMBERED_MODELS = 100
# What an SDK raises besides its own errors for an answer or an environment that it did not expect.
_UNEXPECTED = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def openai_provider(settings: Settings, model_setting: str) -> Provider:
    """How messages name the server at ``OPENAI_BASE_URL``."""
    return Provider(
        "OpenAI" if settings.openai_base_url is None else "the OpenAI-compatible server",
        "OPENAI_API_KEY",
        model_setting,
        "OPENAI_BASE_URL",
        "it usually ends in /v1",
    )


class OpenAIClient:
    """The SDK's client, built when it is first needed. Its retries and read timeouts are off: the callers limit the time."""

    def __init__(self, settings: Settings, provider: Provider) -> None:
        self.provider = provider
        # A local server needs no key, but the SDK does.
        self._key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        self._base_url = settings.openai_base_url or OPENAI_URL
        self._connect_s = settings.provider_connect_timeout_s
        self._max_connections = settings.provider_max_connections
        self._opening = asyncio.Lock()
        self._client: openai.AsyncOpenAI | None = None
        self._refused_parameters: dict[str, frozenset[str]] = {}

    async def open(self) -> openai.AsyncOpenAI:
        """The client; the first call takes about a second, off the event loop. Raises ChatError ``model_unavailable``."""
        failure: ChatError | None = None
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(self._load)
                except Exception as error:  # noqa: BLE001 - building a client runs the code of many libraries
                    words = setup_words(self.provider, error)
                    failure = ChatError("model_unavailable", words, cause=cause_of(error))
        if self._client is None:
            raise failure or ChatError("model_unavailable")
        return self._client

    def _load(self) -> openai.AsyncOpenAI:
        import httpx2
        import openai

        from shared.llm.http_client import ProviderClient

        limits = httpx2.Limits(max_connections=self._max_connections, max_keepalive_connections=_KEEPALIVE_CONNECTIONS)
        connect_s = self._connect_s
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=connect_s, pool=connect_s, write=connect_s),
            http_client=ProviderClient(limits=limits, follow_redirects=True),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def frames(
        self, send: Send, model: str, required: dict[str, Any], optional: dict[str, Any], max_frame_bytes: int
    ) -> AsyncGenerator[Frame, None]:
        """The frames of one answer; leaving the iterator closes the request.

        A server that refuses an ``optional`` parameter (400 or 422) is asked again without it, and from then on for this model.
        Raises ChatError, for an error inside the answer too.
        """
        failure: ChatError | None = None
        begun = False
        try:
            async with self._answer(send, model, required, optional) as response:
                begun = True
                chunks = response.iter_bytes()
                async for frame in read_frames(chunks, max_frame_bytes):
                    failure = error_frame(self.provider, frame, model)
                    if failure is not None:
                        break
                    yield frame
                    if frame.done:
                        # A connection whose answer was read to its end can carry the next request.
                        # anyio's time limit spares the HTTP client while it closes other connections.
                        with anyio.move_on_after(_DRAIN_S):
                            async for _ in chunks:
                                pass
                        return
        except NotAnAnswer as error:
            failure = unreadable(self.provider, error)
        except _failures() as error:
            if begun:
                failure = broken_off(self.provider, cause_of(error))
            else:
                failure = request_error(self.provider, error, model, self._base_url)
        # Raised outside the ``except`` blocks, so that the error has no context with a provider's text.
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _answer(
        self, send: Send, model: str, required: dict[str, Any], optional: dict[str, Any]
    ) -> AsyncIterator[openai.AsyncAPIResponse[Any]]:
        """The response to a request with as many of the ``optional`` parameters as the server accepts."""
        import openai

        refused = self._refused_parameters.get(model, frozenset())
        async with AsyncExitStack() as stack:
            for tries in count():
                wanted = {name: value for name, value in optional.items() if name not in refused}
                try:
                    response = await stack.enter_async_context(send(model=model, **required, **wanted))
                    break
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    more = refused_parameters(error, wanted.keys(), guess=not tries)
                    if not more:
                        raise
                    refused |= more
            if refused and len(self._refused_parameters) < _REMEMBERED_MODELS:
                self._refused_parameters[model] = refused
            yield response


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of the SDK for a request that failed and for an answer that broke off."""
    import httpx2
    import openai

    return (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, *_UNEXPECTED)
