"""The store under test, as one process has it and as a second one has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.store.open import open_store
from shared.store.protocol import Store
from tests.store.suite import (
    Backend,
)


@pytest.fixture
async def store(backend: Backend, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(backend.url(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
async def other(backend: Backend, tmp_path: Path, store: Store) -> AsyncIterator[Store]:
    """The same store as another process has it."""
    opened = open_store(backend.url(tmp_path))
    yield opened
    await opened.close()
