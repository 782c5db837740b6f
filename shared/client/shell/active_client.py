"""The client in use: whether it reaches its server, its statistics, and its replacement by another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Literal

from rich.text import Text

from shared.client import text
from shared.client.exit_status import KEY_ADVICE
from shared.client.protocol import ChatClient
from shared.client.shell.client_stats import ClientStats
from shared.errors import ChatError, ConnectionLost, ServerAbsent

State = Literal["idle", "up", "down"]
# What the user can do about a refusal.
_ADVICE = {
    "turn_in_progress": "/stop stops it",
    "session_not_found": "/new creates one, /sessions lists them",
    "unauthenticated": KEY_ADVICE,
    "model_not_found": "/new MODEL chooses another; Tab after /new lists the models",
    "turn_not_completed": "/retry asks again",
    "turn_expired": "/history still has the text",
}


class Unreachable(ConnectionLost):
    """A client that should replace the one in use cannot reach its server. The message is the whole line."""


class ActiveClient:
    """``state``: idle before the first request and after /disconnect, else up or down as the last request ended.

    ``parted``: the client is not connected, before the first request and after /disconnect.
    """

    def __init__(
        self, client: ChatClient, open_client: Callable[[str], ChatClient], absent: Callable[[ChatClient], str]
    ) -> None:
        self.client = client
        self.state: State = "idle"
        self.parted = True
        self.stats_by_word: dict[str, ClientStats] = {}
        self._open_client = open_client
        self._absent = absent

    @property
    def word(self) -> str:
        """The transport in use."""
        return self.client.transport

    @property
    def stats(self) -> ClientStats:
        """The statistics of the transport in use."""
        counts = self.client.counts
        stats = self.stats_by_word.setdefault(self.word, ClientStats(self.word, counts))
        stats.renew(counts)
        return stats

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[ChatClient]:
        """The connected client, for one request; how the request ends sets ``state``. Raises what the client raises."""
        try:
            if self.parted:
                await self.connect()
            yield self.client
        except ChatError:
            self.state = "up"
            raise
        except ConnectionLost:
            self.state = "down"
            raise
        self.state = "up"

    async def connect(self) -> None:
        """Connect the client, which is a new one after ``disconnect``."""
        stats = self.stats
        try:
            await self.client.connect()
        except ConnectionLost:
            self.state = "down"
            raise
        stats.renew(self.client.counts)
        self.parted, self.state = False, "up" if self.client.holds_connection else self.state

    async def disconnect(self) -> None:
        """Close the client, and make another for the same address."""
        old, word = self.client, self.word
        self.client = await asyncio.to_thread(self._open_client, word)
        self.parted, self.state = True, "idle"
        await old.aclose()

    async def open(self, word: str) -> ChatClient:
        """A connected client of another transport, not yet in use. Raises Unreachable."""
        # In a thread, because a transport's library is imported at its first use.
        client = await asyncio.to_thread(self._open_client, word)
        try:
            await client.connect()
            # Where no connection is held, connecting does not show whether a server is there.
            await client.ping()
        except (ChatError, ConnectionLost) as error:
            await client.aclose()
            raise Unreachable(self._words(error, client)) from error
        return client

    def adopt(self, client: ChatClient) -> ChatClient:
        """Use another client from now on. Returns the client before it, for the caller to close."""
        old, self.client = self.client, client
        self.parted, self.state = False, "up"
        self.stats.renew(client.counts)
        return old

    def explain(self, error: ChatError | ConnectionLost, advice: str = "") -> Text:
        """One line for what went wrong, and what the user can do: ``advice``, where the error itself needs no other."""
        words = self._words(error, self.client)
        given = isinstance(error, ChatError) and error.code in _ADVICE
        return Text(text.line(words if given or not advice else f"{words} ({advice})"), style="red")

    def _words(self, error: ChatError | ConnectionLost, client: ChatClient) -> str:
        if isinstance(error, Unreachable):
            return error.message
        if isinstance(error, ServerAbsent):
            return self._absent(client)
        if isinstance(error, ConnectionLost):
            return f"connection lost: {error.message}"
        advice = _ADVICE.get(error.code)
        return f"{error.code}: {error.message}" + (f" ({advice})" if advice else "")
