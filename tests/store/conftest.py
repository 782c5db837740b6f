"""The store under test, opened as by one process and again as by a second process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.events import now_ms
from shared.store.open import open_store
from shared.store.protocol import Store
from tests.store.suite import NOW, Backend


@pytest.fixture
async def store(backend: Backend, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(backend.url(tmp_path))
    opened.clock_offset_ms = NOW - now_ms()
    yield opened
    await opened.close()


@pytest.fixture
async def other(backend: Backend, tmp_path: Path, store: Store) -> AsyncIterator[Store]:
    """The same store as another process has it."""
    opened = open_store(backend.url(tmp_path))
    opened.clock_offset_ms = store.clock_offset_ms
    yield opened
    await opened.close()
