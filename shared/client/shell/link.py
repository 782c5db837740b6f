"""The client in use: whether it reaches its server, what it has counted, and how another takes its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Literal

from rich.text import Text

from shared.client.protocol import ChatClient
from shared.client.shell import text
from shared.client.shell.tally import Tally
from shared.errors import ChatError, ConnectionLost, ServerAbsent

State = Literal["idle", "up", "down"]
# What one can do about a refusal, where that is one thing.
_ADVICE = {
    "turn_in_progress": "/stop stops it",
    "session_not_found": "/new makes one, /sessions lists them",
    "unauthenticated": "set API_SECRET_KEY to the server's key, or start me with --key",
    "model_not_found": "/new MODEL takes another; Tab after it lists them",
    "turn_expired": "/history still has the text",
}


class Unreachable(ConnectionLost):
    """Another client than the one in use cannot be had; the message is the whole line."""


class Link:
    """``state``: idle before the first request and after /disconnect, up or down as the last one went."""

    def __init__(
        self, client: ChatClient, open_client: Callable[[str], ChatClient], absent: Callable[[ChatClient], str]
    ) -> None:
        self.client = client
        self.state: State = "idle"
        self.parted = True
        self.tallies: dict[str, Tally] = {}
        self._open_client = open_client
        self._absent = absent

    @property
    def word(self) -> str:
        """The transport in use."""
        return self.client.transport

    @property
    def tally(self) -> Tally:
        """The numbers of the transport in use."""
        counts = self.client.counts
        tally = self.tallies.setdefault(self.word, Tally(self.word, counts))
        tally.renew(counts)
        return tally

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[ChatClient]:
        """The client, connected, for something to ask of the server. Raises what the client raises."""
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
        """Open the client; after ``disconnect`` a new one."""
        tally = self.tally
        try:
            await self.client.connect()
        except ConnectionLost:
            self.state = "down"
            raise
        tally.renew(self.client.counts)
        self.parted, self.state = False, "up" if self.client.holds_connection else self.state

    async def disconnect(self) -> None:
        """Close the client; its address stays."""
        old, word = self.client, self.word
        self.client = await asyncio.to_thread(self._open_client, word)
        self.parted, self.state = True, "idle"
        await old.aclose()

    async def open(self, word: str) -> ChatClient:
        """A connected client of another transport, not yet in use. Raises ConnectionLost with words that help."""
        # In a thread, because a transport's library is imported when it is first used.
        client = await asyncio.to_thread(self._open_client, word)
        try:
            await client.connect()
            # Only where a connection is held does connecting show that there is a server.
            await client.ping()
        except (ChatError, ConnectionLost) as error:
            await client.aclose()
            raise Unreachable(self._words(error, client)) from error
        return client

    def adopt(self, client: ChatClient) -> ChatClient:
        """Use another client from now on; the one before it is given back, to be closed."""
        old, self.client = self.client, client
        self.parted, self.state = False, "up"
        self.tally.renew(client.counts)
        return old

    def explain(self, error: ChatError | ConnectionLost) -> Text:
        """One line for what went wrong, and what one can do."""
        return Text(text.line(self._words(error, self.client)), style="red")

    def _words(self, error: ChatError | ConnectionLost, client: ChatClient) -> str:
        if isinstance(error, Unreachable):
            return error.message
        if isinstance(error, ServerAbsent):
            return self._absent(client)
        if isinstance(error, ConnectionLost):
            return f"connection lost: {error.message}"
        advice = _ADVICE.get(error.code)
        return f"{error.code}: {error.message}" + (f" ({advice})" if advice else "")
