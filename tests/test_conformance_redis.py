"""The whole of tests/test_conformance.py again, with a Valkey as the store of the five servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeServers, Servers
from tests.store.suite import redis_url
from tests.test_conformance import *  # noqa: F403 - the same tests, collected here too


@pytest.fixture(scope="module")
def make_servers(make_servers: MakeServers, tmp_path_factory: pytest.TempPathFactory) -> MakeServers:
    """Servers on keys of their own in one Valkey."""

    def make(*, store: Path | None = None, **env: str) -> Servers:
        folder = store or tmp_path_factory.mktemp("redis")
        return make_servers(store=folder, STORE_URL=redis_url(folder), **env)

    return make


@pytest.fixture(scope="module")
def servers(make_servers: Any) -> Iterator[Servers]:
    """The five. At the end none of them may have logged an error."""
    five = make_servers()
    yield five
    assert not five.errors()
