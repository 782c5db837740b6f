"""Opening the store that ``STORE_URL`` names."""

from __future__ import annotations

import re
from importlib.util import find_spec

from shared.store.protocol import Options, Store

_REDIS = ("redis", "rediss", "redis+sentinel", "redis+cluster")


def without_password(url: str) -> str:
    """A ``STORE_URL`` for the eyes of others."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)


def open_store(url: str, options: Options | None = None) -> Store:
    """The store that ``STORE_URL`` names. Raises ValueError with what to set instead when it cannot be used."""
    scheme, _, path = url.partition("://")
    if scheme == "sqlite" and (path == "" or path.startswith("/")):
        from shared.store.sqlite.store import SqliteStore

        return SqliteStore(path[1:] or None, options)
    if scheme in _REDIS:
        if find_spec("redis") is None or find_spec("hiredis") is None:
            raise ValueError(f'STORE_URL: {scheme}:// needs one more package: pip install -e ".[redis]"')
        from shared.store.redis.store import RedisStore

        return RedisStore(url, options or Options())
    raise ValueError(
        "STORE_URL must be sqlite:///path, sqlite:// (in memory) or " + ", ".join(f"{scheme}://" for scheme in _REDIS)
    )
