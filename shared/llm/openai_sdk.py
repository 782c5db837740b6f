"""The openai SDK, for the chat and the images: one client, and its errors in our own words.

``OPENAI_BASE_URL`` (with its ``/v1``) points it at any server that speaks the same HTTP API. The SDK is imported, in a
thread, when the first request needs it. https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from shared.config import Settings
from shared.errors import ChatError
from shared.llm.provider import Provider, broken_off, provider_error

if TYPE_CHECKING:
    import openai


_KEEPALIVE_CONNECTIONS = 100


class OpenAIClient:
    """The SDK's client, built when it is first asked for. Its retries and read timeouts are off: ours are in charge."""

    def __init__(self, settings: Settings) -> None:
        # A local server wants no key, the SDK does.
        self._key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        self._base_url = settings.openai_base_url
        self._connect_s = settings.provider_connect_timeout_s
        self._max_connections = settings.provider_max_connections
        self._opening = asyncio.Lock()
        self._client: openai.AsyncOpenAI | None = None

    async def open(self) -> openai.AsyncOpenAI:
        """The client; the first call takes about a second, off the event loop."""
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._load)
        return self._client

    def _load(self) -> openai.AsyncOpenAI:
        import httpx2
        import openai

        limits = httpx2.Limits(max_connections=self._max_connections, max_keepalive_connections=_KEEPALIVE_CONNECTIONS)
        connect_s = self._connect_s
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=connect_s, pool=connect_s, write=connect_s),
            http_client=openai.DefaultAsyncHttpxClient(limits=limits),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()


def request_failures() -> tuple[type[Exception], ...]:
    """What the SDK raises for a request that failed: its own errors, a cut line, and what is not JSON or not the API's."""
    import httpx2
    import openai

    return (openai.APIError, httpx2.HTTPError, ValueError, TypeError)


def chat_error(error: Exception, provider: Provider, model: str) -> ChatError:
    """Our error for one of ``request_failures``: by HTTP status, ``error.code``, ``error.type`` and Retry-After.

    Raise it outside the ``except`` block, so that no provider's text hangs on it as its context.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        wait = error.response.headers.get("retry-after", "")
        retry_after_s = float(wait) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", wait) else None
        codes = (str(error.code), str(error.type))
        return provider_error(provider, error.status_code, codes, model=model, retry_after_s=retry_after_s)
    if isinstance(error, openai.APITimeoutError):
        return provider_error(provider, 504, model=model)
    if isinstance(error, openai.APIConnectionError):
        return provider_error(provider, None, model=model)
    if isinstance(error, openai.APIError):  # a frame with an error, inside a stream
        code = str(error.code)
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else None
        return provider_error(provider, status, (code, str(error.type)), model=model)
    return broken_off(provider)
