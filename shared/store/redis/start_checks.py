"""What is checked before the first request: a store that would lose events in silence is refused with one clear sentence."""

from __future__ import annotations

from typing import Any

from shared.store.redis.address import Address
from shared.store.redis.connections import sync_client
from shared.store.redis.errors import FAILURES, first_word
from shared.store.redis.keys import Keys

_SCHEMA = "1"
_OLDEST = (6, 2)
_PERMISSIONS = "+@read +@write +@scripting +@pubsub +@connection +@transaction +info +time +wait ~{PREFIX}* &{PREFIX}*"
_TRY = """
redis.call('PUBLISH', ARGV[1], '')
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
"""


def check_store(address: Address, keys: Keys, ack_replicas: int) -> str:
    """What *committed* means on this server, as far as it tells. Raises ValueError with what to change."""
    if address.form == "cluster" and ack_replicas:
        raise ValueError("STORE_ACK_REPLICAS works with redis://, rediss:// and redis+sentinel://, not with a cluster")
    client: Any = None
    try:
        client = sync_client(address)
        info = _info(client, address)
        _refuse_unfit(info, address)
        schema = client.eval(_TRY, 1, keys.version, keys.signal_channel, _SCHEMA)
        subscription = client.pubsub()
        subscription.subscribe(keys.signal_channel)
        subscription.get_message(timeout=1)
        subscription.close()
    except FAILURES as error:
        raise ValueError(_sentence(error, address, keys)) from error
    finally:
        if client is not None:
            client.close()
    if schema != _SCHEMA.encode():
        raise ValueError(
            f"STORE_URL: the data at {address} are of another version of this program; use another ?prefix= or database"
        )
    return _meaning(info, ack_replicas)


def _info(client: Any, address: Address) -> dict[str, Any]:
    if address.form == "cluster":
        # A cluster's client answers with one dictionary a node; the policy and the version are the same on all.
        return dict(client.info(target_nodes=client.get_primaries()[0]))
    return dict(client.info())


def _refuse_unfit(info: dict[str, Any], address: Address) -> None:
    version = str(info.get("redis_version", "0"))
    if tuple(int(number) for number in version.split(".")[:2]) < _OLDEST:
        raise ValueError(f"STORE_URL: {address} is version {version}; Redis 6.2 or newer, or Valkey, is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ValueError(
            f"STORE_URL: {address} has maxmemory-policy {policy}, which drops running conversations when memory is"
            " short; set maxmemory-policy noeviction"
        )
    if info.get("role") == "slave":
        raise ValueError(f"STORE_URL: {address} is a replica; name the primary, or use redis+sentinel://")
    is_cluster = bool(info.get("cluster_enabled"))
    if is_cluster and address.form != "cluster":
        raise ValueError(f"STORE_URL: {address} is part of a cluster; use redis+cluster://{address}")


def _sentence(error: BaseException, address: Address, keys: Keys) -> str:
    word = first_word(error)
    if word in ("NOAUTH", "WRONGPASS"):
        return f"STORE_URL: {address} refuses the user or the password; set them in the URL, or STORE_PASSWORD"
    if word == "NOPERM" or "permission" in str(error).lower():
        permissions = _PERMISSIONS.replace("{PREFIX}", keys.tag)
        return f"STORE_URL: the user at {address} lacks a permission; it needs: {permissions}"
    if "cluster mode is not enabled" in str(error).lower():
        return f"STORE_URL: {address} is no cluster; use redis://{address}/0"
    if word == "READONLY":
        return f"STORE_URL: {address} is a replica; name the primary, or use redis+sentinel://"
    if word == "OOM":
        return f"STORE_URL: {address} is full; raise maxmemory"
    if word == "MISCONF":
        return f"STORE_URL: {address} cannot write to its disk"
    if "unknown command" in str(error).lower():
        return f"STORE_URL: {address} lacks a command that the store needs (EVAL, PUBLISH, SUBSCRIBE)"
    return f"STORE_URL: {address} cannot be used ({type(error).__name__}); is it running, and is the address right?"


def _meaning(info: dict[str, Any], ack_replicas: int) -> str:
    replicas = f"; each event is on {ack_replicas} more machine{'s' * (ack_replicas > 1)}" if ack_replicas else ""
    if not info.get("aof_enabled"):
        return f"in the memory of the store: lost when its process dies (appendonly is off){replicas}"
    return f"in the store's append-only file: survives the death of its process{replicas}"
