"""One row of the table of transports, as far as shared code needs it; ``protocols`` holds the table and hands it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.config import configured_ports, optional_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """One transport: ``word`` is what one types, ``title`` its name.

    ``also``: other names that one may type for it. ``scheme`` is ``http`` where a browser's page can reach the server.
    ``tokens``: the reply arrives token by token. ``holds``: one connection carries many turns, both ways. ``http2``: the server
    speaks HTTP/2 alone; ``http1_only``: HTTP/1.1 alone, whatever ``HTTP2`` says. The relays that damage the line on purpose
    listen ``relay_offset`` above each server.
    ``page_word``: the word of a second port, for the scripts of pages, of a server whose own protocol no page can speak.
    """

    word: str
    title: str
    scheme: Literal["http", "grpc"]
    default_port: int
    tokens: bool = False
    holds: bool = False
    http2: bool = False
    http1_only: bool = False
    relay_offset: int
    page_word: str | None = None
    also: tuple[str, ...] = ()

    def scheme_prefix(self, *, tls: bool) -> str:
        """What stands before ``host:port`` in an address: ``https://``, ``grpcs://``, ``http://``, or nothing for plain gRPC."""
        if tls:
            return f"{self.scheme}s://"
        return "http://" if self.scheme == "http" else ""

    @property
    def port_setting(self) -> str:
        """The name of the setting that holds this transport's port, such as ``SSE_PORT``."""
        return f"{self.word.upper()}_PORT"

    @property
    def page_port_setting(self) -> str:
        """The name of the setting that holds the port for pages, such as ``GRPC_WEB_PORT``."""
        return f"{(self.page_word or '').upper().replace('-', '_')}_PORT"

    def page_port(self, port: int) -> int | None:
        """The port for pages of a server on ``port``: the setting, else the next port, or any free one. None: there is none.

        Raises ValueError for a setting that is no port.
        """
        if self.page_word is None:
            return None
        setting = optional_port(self.page_port_setting)
        if setting is None:
            return port + 1 if port else 0
        return None if setting == "off" else setting

    def port(self) -> int:
        """The configured port: the setting, else the default. Raises pydantic's ValidationError for a value that is no port."""
        return configured_ports({self.port_setting: self.default_port})[self.port_setting]


def ports_of(transports: Mapping[str, Transport]) -> dict[str, int]:
    """The configured port of each transport, as ``Transport.port``."""
    found = configured_ports({row.port_setting: row.default_port for row in transports.values()})
    return {word: found[row.port_setting] for word, row in transports.items()}


class Named(Protocol):
    """A row of the table of transports, as far as its names go."""

    @property
    def also(self) -> tuple[str, ...]:
        """Other names that one may type for it."""


def word_named(name: str, transports: Mapping[str, Named]) -> str | None:
    """The word of the transport that ``name`` means: its word, another of its names, or the beginning of such a name.

    The beginning must fit one word alone, or where it fits no word, the other names of one transport alone.
    """
    name = name.lower()
    if name in transports:
        return name
    for word, transport in transports.items():
        if name in transport.also:
            return word
    begin = [word for word in transports if word.startswith(name)] or [
        word for word, transport in transports.items() if any(other.startswith(name) for other in transport.also)
    ]
    return begin[0] if len(begin) == 1 else None
