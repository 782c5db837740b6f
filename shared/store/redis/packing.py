"""Commands are packed with hiredis. redis-py's asyncio connections pack in Python, which takes six times as long for an append."""

from __future__ import annotations

from functools import cache
from typing import Any

import hiredis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection

# The stub of hiredis allows a tuple of one item only.
_pack: Any = hiredis.pack_command


class PackedByHiredis(AbstractConnection):
    """A mixin for connection classes of redis-py: hiredis packs the same bytes in C."""

    __slots__ = ()

    def pack_command(self, *args: Any) -> list[bytes]:
        """The command in RESP2. Raises DataError and UnicodeEncodeError as the library does.

        The library packs a name of several words, such as ``CLIENT SETINFO``, and the values that hiredis refuses.
        """
        name = args[0]
        if isinstance(name, str) and name.isalnum():
            try:
                return [_pack(args)]
            except TypeError:
                pass
        return super().pack_command(*args)


def pack_with_hiredis(client: Any) -> Any:
    """Have every connection that the client opens from now on pack its commands with hiredis. Returns the client.

    The client is a Redis on a pool of any kind, or a RedisCluster, whose nodes make their connections themselves.
    """
    makers: list[Any]
    if isinstance(client, RedisCluster):
        template = client.connection_kwargs
        makers = list(client.nodes_manager.startup_nodes.values())
        template["connection_class"] = _packing(template["connection_class"])
    else:
        makers = [client.connection_pool]
    for maker in makers:
        maker.connection_class = _packing(maker.connection_class)
    return client


@cache
def _packing(connection_class: Any) -> Any:
    return type(f"{connection_class.__name__}PackedByHiredis", (PackedByHiredis, connection_class), {})
