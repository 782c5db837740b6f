"""Fixtures of the browser's tests: Chromium, and a store for a test's own server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.browser.chat import FLAGS
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
