"""Opening the store that ``STORE_URL`` names."""

from __future__ import annotations

from shared.store.protocol import Options, Store


def open_store(url: str, options: Options | None = None) -> Store:
    """The store that ``STORE_URL`` names. Raises ValueError with what to set instead when it cannot be used."""
    scheme, _, path = url.partition("://")
    if scheme == "sqlite" and (path == "" or path.startswith("/")):
        from shared.store.sqlite.store import SqliteStore

        return SqliteStore(path[1:] or None, options)
    if scheme in ("redis", "rediss"):
        raise ValueError("STORE_URL: redis:// is not supported yet; use sqlite:///path")
    raise ValueError("STORE_URL must be sqlite:///path or sqlite:// (in memory)")
