"""A running service on a store of its own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.chat.service import open_service
from shared.config import Settings
from shared.logger import open_logger
from shared.store.open import open_store
from tests.service.scripted import (
    Drawn,
    Here,
    Play,
    Scripted,
    Serve,
    SlowStore,
)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """``async with serve(model, …) as here``: a service on ``tmp_path``'s store (``store_url`` for another)."""

    @asynccontextmanager
    async def start(
        model: Scripted | Play, *, images: Drawn | None = None, store_url: str | None = None, **given: Any
    ) -> AsyncIterator[Here]:
        url = store_url or f"sqlite:///{tmp_path}/chat.db"
        store, out = SlowStore(open_store(url)), io.StringIO()
        chat = model if isinstance(model, Scripted) else Scripted(model)
        monkeypatch.setattr("shared.chat.service.open_store", lambda *_: store)
        monkeypatch.setattr("shared.chat.service.open_chat_model", lambda _: chat)
        monkeypatch.setattr("shared.chat.service.open_image_model", lambda _: images or Drawn([]))
        settings = Settings(_env_file=None, store_url=url, **given)
        async with open_service(settings, logger=open_logger("test", out)) as service:
            yield Here(service, store, out)

    return start


@pytest.fixture(autouse=True)
async def not_for_ever() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield
