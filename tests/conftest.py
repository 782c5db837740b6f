"""Real servers for the tests, started when first asked for and shared: sessions keep the tests apart.

They live in a thread with an event loop of its own, because a test's loop ends with the test, and the servers' logs
have to be read between the tests, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import os
import signal
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from protocols import TRANSPORTS
from protocols.processes import Server, serving
from shared.client.protocol import ChatClient
from shared.config import Settings
from tests.certificates import tls_settings
from tests.lanes import SETTINGS as LANE_SETTINGS
from tests.lanes import lane_client, transport_of
from tests.preloaded import preloaded_servers

T = TypeVar("T")
_SLOWEST_FILES = 25
# Few tests that take long: these files begin first, so that no worker is alone with such a file at the end.
_LONG_FILES = (
    *("test_faults_sample", "test_chaos_sample", "test_plants", "test_others", "test_running", "test_sixth"),
    *("test_diagrams", "test_planted_delays", "test_providers_five", "test_probe_command", "test_launch"),
    *("test_conformance", "test_standalone", "test_cli", "test_compare", "test_outages", "test_errors"),
)
_STORE_URL = os.environ.get("STORE_URL")
_TLS = bool(os.environ.get("TLS"))

WORDS = tuple(TRANSPORTS)
KEY = "correct-horse-battery-staple"
# No provider and no waiting: a test that needs time asks for it with a stage direction (/slow, /stall).
FAST = {
    "GENAI_PROVIDER": "offline",
    "IMAGE_PROVIDER": "offline",
    "OFFLINE_TOKENS_PER_S": "0",
    "OFFLINE_FIRST_TOKEN_MS": "0",
}


def with_prefix(url: str, folder: Path) -> str:
    """The address of a Redis with a prefix for the keys, another one for each folder."""
    prefix = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"


class Backstage:
    """An event loop in a thread, where servers are started, listened to and stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backstage", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on that loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """The same from a test's own loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Servers(Mapping[str, Server]):
    """Up to five servers with the same settings, each started when it is first asked for, all on one store.

    ``store`` is the store's file. With ``STORE_URL=redis://…`` in the environment of the tests, they use that server
    instead, with keys of their own. With ``TLS=1`` they speak TLS, with ``LANES`` (``tests/lanes.py``) what those lanes need.
    """

    def __init__(self, backstage: Backstage, store: Path, env: Mapping[str, str]) -> None:
        self.store = store
        url = f"sqlite:///{store}" if _STORE_URL is None else with_prefix(_STORE_URL, store)
        self.env = {**FAST, "STORE_URL": url, **(tls_settings() if _TLS else {}), **LANE_SETTINGS, **env}
        self._backstage = backstage
        self._running: dict[str, tuple[Server, contextlib.AsyncExitStack]] = {}

    def __getitem__(self, word: str) -> Server:
        self.start(word)
        return self._running[word][0]

    def __iter__(self) -> Iterator[str]:
        return iter(WORDS)

    def __len__(self) -> int:
        return len(WORDS)

    def start(self, *words: str) -> None:
        """Start these (all five when none is named) side by side, as far as they do not run yet."""

        async def start_one(word: str) -> None:
            stack = contextlib.AsyncExitStack()
            self._running[word] = (await stack.enter_async_context(serving(word, env=self.env)), stack)

        async def start_all(missing: list[str]) -> None:
            async with asyncio.TaskGroup() as group:
                for word in missing:
                    group.create_task(start_one(word))

        missing = [word for word in words or WORDS if word not in self._running]
        if missing:
            self._backstage.run(start_all(missing))

    async def signal(self, word: str, number: int = signal.SIGINT) -> int:
        """Send one server a signal and wait for its exit status; the next use starts the server again."""
        server, stack = self._running.pop(word)
        status = await self._backstage.run_async(server.stop(number))
        await self._backstage.run_async(stack.aclose())
        return status

    def close(self) -> None:
        """Stop the servers that run."""
        self._backstage.run(self.stop())

    async def stop(self) -> None:
        """The same, on the loop of the servers."""
        await asyncio.gather(*(stack.aclose() for _, stack in self._running.values()))
        self._running.clear()

    def errors(self) -> list[str]:
        """The log lines of all servers at the level ``error``, and every traceback on their stderr."""
        found = []
        for server, _ in list(self._running.values()):
            for entry in list(server.log):
                if entry.get("level") in ("error", "critical") or "exception" in entry:
                    found.append(f"{server.word}: {entry}")
            if any("Traceback" in line for line in server.said):
                found.append(f"{server.word}: {server.said}")
        return found


MakeServers = Callable[..., Servers]
Connect = Callable[..., Awaitable[ChatClient]]


@pytest.fixture(scope="session", autouse=True)
def plain_settings() -> Iterator[None]:
    """Keep the settings of the user who runs the tests out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*Settings.model_fields, "GOOGLE_API_KEY"):
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_starts() -> Iterator[None]:
    """The servers that a test starts share the imports of one process. Tests of the start itself run the commands."""
    with preloaded_servers():
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Collect garbage at the end of each file: a socket that a test left unclosed fails this file, not a later one."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def backstage(plain_settings: None) -> Iterator[Backstage]:
    running = Backstage()
    yield running
    running.close()


@contextlib.contextmanager
def _making_servers(backstage: Backstage, folders: pytest.TempPathFactory) -> Iterator[MakeServers]:
    made: list[Servers] = []

    def make(*, store: Path | None = None, **env: str) -> Servers:
        made.append(Servers(backstage, store or folders.mktemp("store") / "chat.db", env))
        return made[-1]

    yield make

    async def stop_all() -> None:
        await asyncio.gather(*(servers.stop() for servers in made))

    backstage.run(stop_all())


@pytest.fixture(scope="module")
def make_servers(backstage: Backstage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeServers]:
    """``make_servers(NAME="value", …)``: servers with these settings on a store file of their own.

    They are stopped at the end of the file, because a hundred idle servers take most of a core from the tests that run.
    """
    with _making_servers(backstage, tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def servers(backstage: Backstage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The five, without a key, as fast as they can. At the end none of them may have logged an error."""
    with _making_servers(backstage, tmp_path_factory) as make:
        five = make()
        yield five
        assert not five.errors()


@pytest.fixture(scope="session")
def keyed(backstage: Backstage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The five with ``API_SECRET_KEY`` set to ``KEY``."""
    with _making_servers(backstage, tmp_path_factory) as make:
        yield make(API_SECRET_KEY=KEY)


@pytest.fixture(params=WORDS)
def word(request: pytest.FixtureRequest) -> str:
    """The word of each transport in turn."""
    return str(request.param)


@pytest.fixture
async def client(servers: Servers) -> AsyncIterator[Connect]:
    """``await client(word, …)``: a connected client of the shared server; ``on=`` other servers; closed at the end.

    ``word`` may be the name of a lane of ``tests/lanes.py``.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def connect(word: str, *, on: Servers | None = None, **options: Any) -> ChatClient:
            chosen = servers if on is None else on
            server = chosen[transport_of(word)]
            return await stack.enter_async_context(lane_client(word, server, **options))

        yield connect


async def until(condition: Callable[[], Awaitable[Any] | Any], timeout_s: float = 30.0) -> Any:
    """Ask until the answer is true, and return it. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files. Run with ``--no-loadscope-reorder``, the workers take the files in this order."""
    order = {name: number for number, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files that take longest, because none may take above three minutes."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.location[0]] += report.duration
    terminalreporter.section("seconds a file")
    for file, took_s in sorted(seconds.items(), key=lambda item: -item[1])[:_SLOWEST_FILES]:
        terminalreporter.write_line(f"{took_s:6.0f} {file}")
