"""The library's errors as ``storage_unavailable``, with a sentence for the operator on why the store cannot be used now."""

from __future__ import annotations

import re

from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from shared.errors import ChatError

# The first word of an error reply, and what it means. All of them are answered before anything has been written.
_WORDS = {
    "OOM": "the store is full",
    "MISCONF": "the store cannot write to its disk",
    "READONLY": "the store is a replica now",
    "NOREPLICAS": "the store has too few replicas",
    "LOADING": "the store is loading its data",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving the data",
    "MOVED": "the cluster is moving the data",
    "ASK": "the cluster is moving the data",
    "MASTERDOWN": "the store has lost its primary",
    "BUSY": "the store is busy with a script",
    "NOAUTH": "the store asks for a password",
    "WRONGPASS": "the store refuses the password",
    "NOPERM": "the store's user lacks a permission",
}
_FEW = re.compile(r"[A-Z]+")
# A client that asks again at once only adds load.
_RETRY_AFTER_S = 2.0
# uvloop raises RuntimeError for a write on a connection that has just been closed, and the library passes it on.
FAILURES = (RedisError, RedisClusterException, OSError, RuntimeError)


def first_word(error: BaseException) -> str:
    """The word that names an error reply, such as ``OOM``; the library may have cut it off, so its type counts too."""
    word = _FEW.match(str(error))
    name = type(error).__name__
    by_type = {
        "OutOfMemoryError": "OOM",
        "ReadOnlyError": "READONLY",
        "BusyLoadingError": "LOADING",
        "ClusterDownError": "CLUSTERDOWN",
        "TryAgainError": "TRYAGAIN",
        "MovedError": "MOVED",
        "AskError": "ASK",
        "MasterDownError": "MASTERDOWN",
        "NoPermissionError": "NOPERM",
        "AuthenticationError": "WRONGPASS",
        "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    }
    return by_type.get(name) or (word[0] if word else "")


def unavailable(error: BaseException) -> BaseException:
    """``storage_unavailable`` with the reason in words; an error that is a mistake of this program stays as it is."""
    known = _WORDS.get(first_word(error))
    if known is None:
        if isinstance(error, ResponseError) and "max number of clients" in str(error):
            known = "the store has no connection left"
        elif isinstance(error, RedisTimeoutError | TimeoutError):
            known = "the store does not answer in time"
        elif isinstance(error, RedisConnectionError | RedisClusterException | OSError | RuntimeError):
            known = "the store cannot be reached"
        else:
            return error
    refusal = ChatError(
        "storage_unavailable",
        f"The store cannot be used now: {known}; try again in a few seconds.",
        retry_after_s=_RETRY_AFTER_S,
    )
    refusal.__cause__ = error
    return refusal


def lost_line(error: BaseException) -> bool:
    """Whether the connection has broken or is silent, so that a new connection may work."""
    return not isinstance(error, ResponseError) and isinstance(
        error, RedisConnectionError | RedisTimeoutError | OSError
    )


def wrote_nothing(error: ChatError) -> bool:
    """Whether the store has answered with an error, so that it has written nothing; an answer that was lost says neither."""
    return isinstance(error.__cause__, ResponseError)
