"""Fixtures of the browser's tests: Chromium, and a store for a test's own server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from protocols.ports import free_port
from protocols.processes import Server, serving_all
from tests.browser.chat import FLAGS, WORDS
from tests.parts import part


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=30_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=part("chromium").path, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def store(tmp_path: Path) -> dict[str, str]:
    return {"STORE_URL": f"sqlite:///{tmp_path / 'chat.db'}", "OFFLINE_FIRST_TOKEN_MS": "20", "HEARTBEAT_S": "5"}


@pytest.fixture
async def five(store: dict[str, str]) -> AsyncIterator[dict[str, Server]]:
    """The five servers, each of which knows the ports of the others. The gRPC server has a second port for pages."""
    part("connectrpc")
    names = (*WORDS, "grpc", "grpc_web")
    ports = {name: free_port() for name in names}
    env = store | {f"{name.upper()}_PORT": str(port) for name, port in ports.items()} | {"OFFLINE_TOKENS_PER_S": "25"}
    async with serving_all((*WORDS, "grpc"), env=env, ports=ports) as servers:
        yield servers


@pytest.fixture
async def four(store: dict[str, str]) -> AsyncIterator[dict[str, Server]]:
    """The four HTTP servers, each of which knows the ports of the others."""
    ports = {word: free_port() for word in WORDS}
    env = store | {f"{word.upper()}_PORT": str(port) for word, port in ports.items()} | {"OFFLINE_TOKENS_PER_S": "25"}
    async with serving_all(WORDS, env=env, ports=ports) as servers:
        yield servers
