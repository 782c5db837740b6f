"""Commands to Redis packed with hiredis: the bytes are those of the library, in every form of an address."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.connection import Connection
from redis.exceptions import DataError

from shared.store.redis.address import parse_address
from shared.store.redis.connections import async_client, line_client, subscription_client
from shared.store.redis.packing import PackedByHiredis, pack_with_hiredis

ADDRESSES = {
    "single": "redis://127.0.0.1:1/2",
    "single, TLS": "rediss://127.0.0.1:1/2",
    "Sentinel": "redis+sentinel://127.0.0.1:1/chat/0",
    "Sentinel, TLS": "redis+sentinel://127.0.0.1:1/chat/0?ssl=true",
    "cluster": "redis+cluster://127.0.0.1:1,127.0.0.1:2",
    "cluster, TLS": "redis+cluster://127.0.0.1:1?ssl=true",
}


class Number(enum.IntEnum):
    ONE = 1


class Word(str):
    """A text of a class of its own."""


COMMANDS: dict[str, tuple[Any, ...]] = {
    "a script": ("EVALSHA", "0" * 40, 2, "{genai}:t:1", "{genai}:l:1", "1", b"{}\n{}"),
    "nothing but a name": ("PING",),
    "a name of two words": ("CLIENT SETINFO", "LIB-NAME", "x"),
    "a name of two words in bytes": (b"CONFIG GET", "maxmemory"),
    "a name in bytes": (b"GET", "k"),
    "a name with a space after it": ("GET ", "k"),
    "texts": ("SET", "", "é€👩‍💻", "\x00\r\n$3\r\n", Word("word")),
    "bytes": ("SET", b"", b"\x00\xff\r\n", bytearray(b"ab"), memoryview(b"cd"), memoryview(b"")),
    "numbers": ("SET", 0, -1, 10**30, Number.ONE, 0.1, -0.0, 1e22, 1e-7, float("inf"), float("nan")),
    "a picture": ("HSET", "im", "data", bytes(range(256)) * 4096, "mime", "image/png"),
}
REFUSED: dict[str, tuple[Any, ...]] = {
    "none": ("SET", "k", None),
    "a boolean": ("SET", "k", True),
    "a list": ("SET", "k", ["a"]),
    "half a pair of surrogates": ("SET", "k", "\ud83d"),
}


def packing() -> Any:
    """A connection that packs with hiredis, to nowhere."""
    return pack_with_hiredis(redis.asyncio.Redis()).connection_pool.make_connection()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_has_the_bytes_of_the_library(command: tuple[Any, ...]) -> None:
    ours, theirs = packing(), Connection()
    assert b"".join(ours.pack_command(*command)) == b"".join(theirs.pack_command(*command))
    several = [command, ("PING",), command]
    assert b"".join(ours.pack_commands(several)) == b"".join(theirs.pack_commands(several))


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED)
def test_what_the_library_refuses_is_refused(command: tuple[Any, ...]) -> None:
    errors = []
    for connection in (packing(), Connection()):
        with pytest.raises((DataError, UnicodeEncodeError)) as error:
            connection.pack_command(*command)
        errors.append((type(error.value), str(error.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("url", ADDRESSES.values(), ids=ADDRESSES)
async def test_each_form_of_an_address_packs_with_hiredis(url: str) -> None:
    address = parse_address(url, "secret")
    client = async_client(address)
    if address.form == "cluster":
        nodes = client.nodes_manager.startup_nodes.values()
        # A node that the cluster names later is made from the client's template.
        assert issubclass(client.nodes_manager.connection_kwargs["connection_class"], PackedByHiredis)
        made = [node.acquire_connection() for node in nodes]
    else:
        clients = [client, line_client(address), await subscription_client(address, "k")]
        made = [one.connection_pool.make_connection() for one in clients]
        assert [connection.socket_timeout is None for connection in made] == [False, True, True]
    for connection in made:
        assert isinstance(connection, PackedByHiredis)
        assert connection.pack_command("PING") == [b"*1\r\n$4\r\nPING\r\n"]
        assert (getattr(connection, "ssl_context", None) is not None) == (address.tls is not None)


def test_a_socket_of_this_machine() -> None:
    """No address has this form. The library's class for it takes the packer all the same."""
    client = pack_with_hiredis(redis.asyncio.Redis(unix_socket_path="/nowhere"))
    connection = client.connection_pool.make_connection()
    assert isinstance(connection, PackedByHiredis)
    assert isinstance(connection, redis.asyncio.UnixDomainSocketConnection)
