"""Connections to Redis or Valkey with redis-py, whose own retries are off: it would repeat a write by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.cluster
import redis.retry
import redis.sentinel
from redis.exceptions import ReadOnlyError

from shared.store.redis.address import Address
from shared.store.redis.packing import pack_with_hiredis

_CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 2.0

# redis-py types the commands of its clients for both worlds at once, sync and async, and some classes not at all.
AsyncClient = Any
SyncClient = Any
_AsyncSentinel: Any = redis.asyncio.sentinel.Sentinel
_AsyncNode: Any = redis.asyncio.cluster.ClusterNode
_Sentinel: Any = redis.sentinel.Sentinel
_Node: Any = redis.cluster.ClusterNode


def async_client(address: Address) -> AsyncClient:
    """A client for the event loop."""
    if address.form != "cluster":
        return _client_of_primary(address)
    nodes = [_AsyncNode(host, port) for host, port in address.hosts]
    return pack_with_hiredis(redis.asyncio.cluster.RedisCluster(startup_nodes=nodes, **_async_options(address)))


def line_client(address: Address) -> AsyncClient:
    """A client whose pool gives connections with the primary that are used without the client; not for a cluster.

    Connecting has a time limit, and a command has none: on Python 3.11 the library starts a task for each command that
    it sends with a limit.
    """
    return _client_of_primary(address, socket_timeout=None)


def _client_of_primary(address: Address, **other: Any) -> AsyncClient:
    options = _async_options(address)
    of_the_primary = {**options, "db": address.database, "redis_connect_func": _connect_to_primary, **other}
    if address.form == "sentinel":
        sentinel = _AsyncSentinel(address.hosts, sentinel_kwargs=_sentinel(options), **options)
        return pack_with_hiredis(sentinel.master_for(address.service, **of_the_primary))
    ((host, port),) = address.hosts
    return pack_with_hiredis(redis.asyncio.Redis(host=host, port=port, **of_the_primary))


def sync_client(address: Address, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> SyncClient:
    """A client for a thread."""
    options = _options(address, redis.retry.Retry(redis.backoff.NoBackoff(), 0))
    options["socket_timeout"] = answer_timeout_s
    if address.form == "cluster":
        nodes = [_Node(host, port) for host, port in address.hosts]
        return redis.cluster.RedisCluster(startup_nodes=nodes, **options)
    if address.form == "sentinel":
        sentinel = _Sentinel(address.hosts, sentinel_kwargs=_sentinel(options), **options)
        return sentinel.master_for(address.service, db=address.database)
    ((host, port),) = address.hosts
    return redis.Redis(host=host, port=port, db=address.database, **options)


async def close_client(client: AsyncClient) -> None:
    """Close a client's connections, those with the Sentinels too: the library leaves these open."""
    await client.aclose()
    sentinels = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    if sentinels is not None:
        await sentinels.aclose()


async def primary_of(client: AsyncClient) -> object:
    """The address of the primary, which a Sentinel names to a client that was opened with Sentinels. Raises RedisError."""
    return await client.connection_pool.get_master_address()


async def subscription_client(address: Address, key: str) -> AsyncClient:
    """A ``line_client`` for subscriptions: with the primary, or with the cluster's node that has ``key``."""
    if address.form != "cluster":
        return line_client(address)
    cluster = async_client(address)
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(key)
        host, port = node.host, node.port
    finally:
        await cluster.aclose()
    options = {**_async_options(address), "socket_timeout": None, "redis_connect_func": _connect}
    return pack_with_hiredis(redis.asyncio.Redis(host=host, port=port, **options))


async def _connect(connection: Any) -> None:
    """Begin a connection as the library does: password, number of the database."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await connection.on_connect()


async def _connect_to_primary(connection: Any) -> None:
    """Begin a connection, and refuse a replica: what it shows may be old, or of another history.

    A primary that died may be back as a replica before the Sentinels name another one.
    """
    await _connect(connection)
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await connection.send_command("INFO", "replication")
        if b"role:master" not in await connection.read_response():
            raise ReadOnlyError("the server is a replica now")


def _async_options(address: Address) -> dict[str, Any]:
    return _options(address, redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0))


def _options(address: Address, retry: object) -> dict[str, Any]:
    return {
        "username": address.username,
        "password": address.password,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "protocol": 2,
        "retry": retry,
        **(address.tls or {}),
    }


def _sentinel(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of connections to the Sentinels: those of the store, without its password."""
    of_the_store = ("username", "password", "redis_connect_func")
    return {name: value for name, value in options.items() if name not in of_the_store}
